"""The average precision of all pairs of a query with a row, in one ranking, with its interval.

Shapes: Q queries, N database rows, P true pairs, T different scores of true pairs (the thresholds, the highest first),
R resamples; q and r of them at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
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
    with ThreadPoolExecutor(1) as drawing, ThreadPoolExecutor(1) as adding:  # both beside the counting of pairs
        sizes = [min(_SOME, resamples - start) for start in range(0, resamples, _SOME)]
        weights = [drawing.submit(_weights, rng, size, len(own_Q)) for size in sizes]
        weighted = _Weighted(len(thresholds_T), sizes, weights, adding)
        for chosen_q, scores_qN in _in_blocks(all_scores):
            counts = _counted(scores_qN, thresholds_T)
            first_at_T += counts.pairs_T
            weighted.add(counts, chosen_q)
        weighted.finish()
    with ThreadPoolExecutor(available_cores()) as side_by_side:
        true_weights_Pr = [some.result()[true_P] for some in weights]
        draws = side_by_side.map(_areas_of_resamples, weighted.at_Tr, true_weights_Pr, repeat(first_T))
        draws_R = np.concatenate(list(draws))
    value = float(_areas(true_T, np.cumsum(first_at_T)))
    if not len(draws_R):
        return Score(value=value)
    resampled = Resampled(values=draws_R, key=key)  # which resamples hold no true pair, the key says too
    return Score(value=value, ci95=centred_interval(value, draws_R), resampled=resampled)


_SOME = 250
"""Resamples at a time. No power of two: the rows of what is transposed would share few lines of the cache."""


def _weights(rng: np.random.Generator, resamples: int, count: int) -> NDArray[np.int16]:
    """Returns how often the next resamples hold each query, [Q, r]: about once, and 2 ** 15 times never."""
    return np.ascontiguousarray(rng.multinomial(count, np.full(count, 1 / count), resamples).T, np.int16)


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


_HELD = 1 << 25
"""Cells of counts that wait to be added up, at most (128 MB)."""


class _Weighted:
    """The pairs that reach each threshold first, each as often as a resample holds its query.

    These are sums of whole numbers: exact, and so the same in any order and in any type that holds them (float32 below
    2^24 pairs in all; of more, the last digits of the interval may depend on the blocks). What is sparse is added
    beside the counting. What is dense waits: the threads of a product stay awake for a while after it, and would take
    the time of those that count and add.

    Attributes:
        at_Tr: of some resamples after the other.
    """

    def __init__(
        self, thresholds: int, sizes: list[int], weights: list[Future[NDArray[np.int16]]], adding: Executor
    ) -> None:
        self._weights, self._adding = weights, adding
        self.at_Tr = [np.zeros((thresholds, size), np.float32) for size in sizes]
        self._held: list[tuple[_Counts, NDArray[np.int64], Future[None]]] = []

    def add(self, counts: _Counts, chosen_q: NDArray[np.int64]) -> None:
        """Adds the pairs of some queries, now or later."""
        self._held.append((counts, chosen_q, self._adding.submit(self._add_sparse, counts, chosen_q)))
        if sum(each.low_qT.size + each.high_Tq.nnz for each, _, _ in self._held) > _HELD:
            self.finish()

    def _add_sparse(self, counts: _Counts, chosen_q: NDArray[np.int64]) -> None:
        split = counts.high_Tq.shape[0]
        for into_Tr, weights in zip(self.at_Tr, self._weights, strict=True):
            weights_qr = weights.result()[chosen_q]
            sums_Tr = (counts.high_Tq @ weights_qr).astype(np.float32)
            # 16 bits are twice as fast, and may not hold what is added up where many pairs are.
            wide_W = np.flatnonzero(counts.pairs_T[:split] * int(weights_qr.max(initial=0)) >= 1 << 15)
            sums_Tr[wide_W] = counts.high_Tq[wide_W] @ weights_qr.astype(np.float32)
            into_Tr[:split] += sums_Tr

    def finish(self) -> None:
        """Adds all that waits."""
        for _, _, added in self._held:
            added.result()
        for counts, chosen_q, _ in self._held:
            for into, weights in zip(self.at_Tr, self._weights, strict=True):
                weights_qr = weights.result()[chosen_q].astype(np.float32)
                into[counts.high_Tq.shape[0] :] += counts.low_qT.T @ weights_qr
        self._held.clear()


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
