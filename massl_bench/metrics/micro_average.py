"""The average precision of all pairs of a query with a row, in one ranking, with its interval.

Shapes: Q queries, N database rows, P true pairs, T different scores of true pairs (the thresholds, the highest first),
R resamples; q and r of them at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.devices import available_cores
from massl_bench.core.values import Resampled, Score
from massl_bench.metrics.intervals import centred_interval, key_of_resamples

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def micro_average_precision(
    own_Q: NDArray[np.float32],
    has_original_Q: NDArray[np.bool_],
    all_scores: Iterable[tuple[slice, NDArray[np.float32]]],
    *,
    resamples: int,
    rng: np.random.Generator,
) -> Score:
    """Returns the AP of all (query, row) pairs in one ranking (DISC21, Douze et al. 2021, arXiv 2106.09672, section 4).

    Precision is taken after all pairs of an equal score, so that no order among them matters. The bootstrap 95 %
    interval is over the queries, each with all its pairs, and centred: equal scores of repeated queries raise the AP.

    Args:
        own_Q: the score of each query's true pair; of a query without one, any number.
        has_original_Q: which queries have a true pair, at least one of them.
        all_scores: (which queries, scores of all their pairs [q, N]), the true pairs among them.
        resamples: R, the number of bootstrap resamples.
        rng: draws the resamples.
    """
    true_P = np.flatnonzero(has_original_Q)[np.argsort(-own_Q[has_original_Q], kind="stable")]
    _, first_T, true_T = np.unique(-own_Q[true_P], return_index=True, return_counts=True)
    thresholds_T = own_Q[true_P[first_T]]
    key = key_of_resamples(rng, resamples, has_original_Q)
    first_at_T = np.zeros(len(thresholds_T), dtype=np.int64)
    weighted_at_Tr = [np.zeros((len(thresholds_T), size), np.float32) for size in _sizes(resamples)]
    with ThreadPoolExecutor(1) as beside:  # draws the resamples while pairs are counted, then adds them up
        drawing = beside.submit(_weights, rng, resamples, len(own_Q))
        adding: Future[Any] = drawing
        for chosen_q, scores_qN in _in_blocks(all_scores):
            counts = _counted(scores_qN, thresholds_T)
            first_at_T += counts.pairs_T
            adding.result()  # one block waits at most
            adding = beside.submit(_add_weighted, weighted_at_Tr, counts, [some[chosen_q] for some in drawing.result()])
        adding.result()
    with ThreadPoolExecutor(available_cores()) as side_by_side:
        true_weights_Pr = [some_Qr[true_P] for some_Qr in drawing.result()]
        draws = side_by_side.map(_areas_of_resamples, weighted_at_Tr, true_weights_Pr, repeat(first_T))
        draws_R = np.concatenate(list(draws))
    value = float(_areas(true_T, np.cumsum(first_at_T)))
    if not len(draws_R):
        return Score(value=value)
    resampled = Resampled(values=draws_R, key=key)  # which resamples hold no true pair, the key says too
    return Score(value=value, ci95=centred_interval(value, draws_R), resampled=resampled)


_SOME = 250
"""Resamples at a time. No power of two: the rows of what is transposed would share few lines of the cache."""


def _sizes(resamples: int) -> list[int]:
    return [min(_SOME, resamples - start) for start in range(0, resamples, _SOME)]


def _weights(rng: np.random.Generator, resamples: int, count: int) -> list[NDArray[np.int16]]:
    """Returns how often some resamples after the other hold each query, [Q, r]."""
    share_Q = np.full(count, 1 / count)
    drawn_rQ = (rng.multinomial(count, share_Q, size) for size in _sizes(resamples))
    # A query stands in a resample about once: in 2 ** 15 of them never.
    return [np.ascontiguousarray(some_rQ.T, np.int16) for some_rQ in drawn_rQ]


_SPARSE_COST = 4
"""What a pair costs in a product with a sparse matrix, in cells of one with a dense matrix."""


@dataclass(frozen=True, eq=False)
class _Counts:
    """How many pairs of some queries reach each threshold first; they reach all after it, too."""

    pairs_T: NDArray[np.int64]
    """Of all the queries."""
    high_Tq: csr_matrix
    """Of the highest thresholds, which few pairs reach: a sparse product passes over the queries that do not."""
    low_qT: NDArray[np.float32]
    """Of the others: where most pairs are, a dense product is faster."""


def _counted(scores_qN: NDArray[np.float32], thresholds_T: NDArray[np.float32]) -> _Counts:
    from scipy.sparse import csc_matrix

    total, queries = len(thresholds_T), len(scores_qN)
    # How many thresholds each pair reaches. Sorted scores are found faster.
    reached_qN = np.searchsorted(thresholds_T[::-1], np.sort(scores_qN, axis=1), side="right")
    pairs_T = np.bincount(reached_qN.ravel(), minlength=total + 1)[:0:-1]
    before = np.concatenate([[0], np.cumsum(pairs_T)])
    split = int(np.argmin(_SPARSE_COST * before + queries * np.arange(total, -1, -1)))
    low = total - split
    is_high_qN = reached_qN > low
    ends = np.concatenate([[0], np.cumsum(is_high_qN.sum(axis=1))])
    rows = (total - reached_qN[is_high_qN]).astype(np.int32)
    high_Tq = csc_matrix((np.ones(len(rows), np.int8), rows, ends), shape=(split, queries)).tocsr()
    # The other pairs are counted in cells of their own for each query; the first and the last are of no low threshold.
    np.minimum(reached_qN, low + 1, out=reached_qN)
    reached_qN += np.arange(0, queries * (low + 2), low + 2)[:, None]
    cells_qL = np.bincount(reached_qN.ravel(), minlength=queries * (low + 2)).reshape(queries, low + 2)
    return _Counts(pairs_T, high_Tq, cells_qL[:, low:0:-1].astype(np.float32, order="C"))


def _add_weighted(into_Tr: list[NDArray[np.float32]], counts: _Counts, weights_qr: list[NDArray[np.int16]]) -> None:
    """Adds the pairs that reach each threshold first, each as often as some resamples after the other hold its query.

    These are sums of whole numbers: exact, and so the same in any order and in any type that holds them.
    """
    split = counts.high_Tq.shape[0]
    most = int(counts.pairs_T[:split].max(initial=0))
    single_qr = [some_qr.astype(np.float32) for some_qr in weights_qr]
    for into, some_qr, same_qr in zip(into_Tr, weights_qr, single_qr, strict=True):
        short = most * int(some_qr.max(initial=0)) < 1 << 15  # half the bytes, twice as fast
        into[:split] += counts.high_Tq @ (some_qr if short else same_qr)
    # Apart from the others: the threads of a dense product go on waiting for a next one for a while.
    for into, same_qr in zip(into_Tr, single_qr, strict=True):
        into[split:] += counts.low_qT.T @ same_qr


_BLOCK = 1 << 22
"""Pairs of a query with a row that are counted at a time: few large products."""


def _in_blocks(
    all_scores: Iterable[tuple[slice, NDArray[np.float32]]],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yields (queries [q], their scores [q, N]), put together or cut from what comes to blocks of about one size."""
    waiting: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
    held = 0
    for chosen, scores_qN in all_scores:
        size = max(1, _BLOCK // scores_qN.shape[1])
        for start in range(0, len(scores_qN), size):
            some_qN = scores_qN[start : start + size]
            if held + len(some_qN) > size:
                yield _together(waiting)
                waiting, held = [], 0
            first = chosen.start + start
            waiting.append((np.arange(first, first + len(some_qN)), some_qN))
            held += len(some_qN)
    if waiting:
        yield _together(waiting)


def _together(
    parts: list[tuple[NDArray[np.int64], NDArray[np.float32]]],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    return np.concatenate([rows_q for rows_q, _ in parts]), np.concatenate([scores_qN for _, scores_qN in parts])


_TOGETHER = 32
"""Resamples whose areas are taken at a time: their counts stay in the processor's cache."""


def _areas_of_resamples(
    at_Tr: NDArray[np.float32], weights_Pr: NDArray[np.int16], first_T: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Returns the AP of each resample that holds a true pair.

    Args:
        at_Tr: the pairs that reach each threshold first.
        weights_Pr: how often each true pair is there, in the order of the thresholds.
        first_T: the first true pair of each threshold.
    """
    found = []
    for start in range(0, at_Tr.shape[1], _TOGETHER):
        some = slice(start, start + _TOGETHER)
        at_rT = np.ascontiguousarray(at_Tr[:, some].T)
        true_rT = np.ascontiguousarray(weights_Pr[:, some].T, np.float32)
        if len(first_T) < len(weights_Pr):
            true_rT = np.add.reduceat(true_rT, first_T, axis=1)
        found.append(_areas(true_rT, np.cumsum(at_rT, axis=1, dtype=np.float64).astype(np.float32)))
    return np.concatenate(found)[weights_Pr.any(axis=0)].astype(np.float64)


def _areas(true_xT: NDArray[Any], at_least_xT: NDArray[Any]) -> NDArray[Any]:
    """Returns the AP of the true pairs at each threshold, the highest first, of all pairs that reach each."""
    found_xT = np.cumsum(true_xT, axis=-1)
    parts_xT = found_xT / np.maximum(at_least_xT, 1)
    parts_xT *= true_xT
    # Summed from the lowest threshold on: the order is a part of the last digits.
    area_x: NDArray[Any] = np.ascontiguousarray(parts_xT[..., ::-1]).sum(axis=-1) / np.maximum(found_xT[..., -1], 1)
    return area_x
