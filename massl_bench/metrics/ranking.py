"""Retrieval measures of ranked lists. Shapes: Q queries, N database rows, P positives of a query, R resamples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.values import Resampled, Score
from massl_bench.metrics.intervals import centred_interval, key_of_resamples, percentile_interval

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def trapezoid_average_precision(ranks_P: NDArray[np.int64], num_positives: int | None = None) -> float:
    """Returns the AP of positives at the given ranks, by trapezoids (the Oxford buildings benchmark, CVPR 2007).

    Args:
        ranks_P: increasing, from 0; of the positives that were found.
        num_positives: how many there are in all; those that were not found add nothing. Default: P.
    """
    order_P = np.arange(len(ranks_P))
    before_P = np.where(ranks_P == 0, 1.0, order_P / np.maximum(ranks_P, 1))
    after_P = (order_P + 1) / (ranks_P + 1)
    total = len(ranks_P) if num_positives is None else num_positives
    return float((before_P + after_P).sum() / (2 * total))


def precision_at(ranks_P: NDArray[np.int64], k: int) -> float:
    """Returns the precision among the min(k, rank of the last positive) first (revisited Oxford/Paris, CVPR 2018)."""
    depth = min(k, int(ranks_P.max()) + 1)
    return float((ranks_P < depth).sum() / depth)


def ranks_of(scores_N: NDArray[np.float32], rows_P: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns how many rows come before each of some: those of higher score and, of equal ones, those of lower index.

    These are the places in a full, stable ranking, which costs several times as much.

    Args:
        scores_N: of all rows; finite.
        rows_P: those whose rank is asked.
    """
    increasing_N, own_P = np.sort(scores_N), scores_N[rows_P]
    above_P = np.searchsorted(increasing_N, own_P, side="right")
    ranks_P: NDArray[np.int64] = len(scores_N) - above_P
    tied_P = above_P - np.searchsorted(increasing_N, own_P) > 1
    for score in np.unique(own_P[tied_P]):
        equal_P = own_P == score
        ranks_P[equal_P] += np.searchsorted(np.flatnonzero(scores_N == score), rows_P[equal_P])
    return ranks_P


def average_precision_at_r(relevant_R: NDArray[np.bool_]) -> float:
    """Returns the AP at R of the R best, R being the number of relevant rows (Musgrave et al., ECCV 2020, 3.2)."""
    precision_R = np.cumsum(relevant_R) / np.arange(1, len(relevant_R) + 1)
    return float((precision_R * relevant_R).mean())


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
    count = len(own_Q)
    true_P = np.flatnonzero(has_original_Q)[np.argsort(-own_Q[has_original_Q], kind="stable")]
    _, first_T, true_T = np.unique(-own_Q[true_P], return_index=True, return_counts=True)
    thresholds_T = own_Q[true_P[first_T]]  # the highest first
    num_thresholds = len(thresholds_T)
    key = key_of_resamples(rng, resamples, has_original_Q)
    first_at_T = np.zeros(num_thresholds, dtype=np.int64)
    first_at_Tr = [np.zeros((num_thresholds, len(some)), dtype=np.float32) for some in _some_of(range(resamples))]
    with ThreadPoolExecutor(1) as beside:  # drawn while the pairs are counted, which takes as long
        drawing = beside.submit(_weights, rng, resamples, count)
        for chosen, scores_qN in _in_blocks(all_scores):
            # The first threshold that each score reaches; it reaches all after it, too. Sorted scores are found faster.
            found_qN = np.searchsorted(thresholds_T[::-1], np.sort(scores_qN, axis=1), side="right")
            first_qN = num_thresholds - found_qN
            pairs_T = np.bincount(first_qN.ravel(), minlength=num_thresholds + 1)[:-1]
            first_at_T += pairs_T
            counts = _counts(first_qN, pairs_T)
            for into_Tr, weights_Qr in zip(first_at_Tr, drawing.result(), strict=True):
                _add_weighted(into_Tr, counts, weights_Qr[chosen])
    value = float(_micro_areas(true_T, np.cumsum(first_at_T)))
    draws = []
    for at_Tr, weights_Qr in zip(first_at_Tr, drawing.result(), strict=True):
        at_least_rT = np.cumsum(np.ascontiguousarray(at_Tr.T), axis=1, dtype=np.float64).astype(np.float32)
        true_rT = np.ascontiguousarray(np.add.reduceat(weights_Qr[true_P], first_T, axis=0).T)
        draws.append(_micro_areas(true_rT, at_least_rT)[true_rT.any(axis=1)].astype(np.float64))
    draws_R = np.concatenate(draws)
    if not len(draws_R):
        return Score(value=value)
    resampled = Resampled(values=draws_R, key=key)  # which resamples hold no true pair, the key says too
    return Score(value=value, ci95=centred_interval(value, draws_R), resampled=resampled)


_SOME = 256
"""Resamples at a time: their weights stay in the processor's cache."""


def _some_of(resamples: range) -> list[range]:
    return [resamples[start : start + _SOME] for start in range(0, len(resamples), _SOME)]


def _weights(rng: np.random.Generator, resamples: int, count: int) -> list[NDArray[np.float32]]:
    """Returns how often some resamples after the other hold each query, [Q, r]; exact in single precision."""
    drawn_RQ = rng.multinomial(count, np.full(count, 1 / count), resamples)
    return [np.ascontiguousarray(drawn_RQ[some.start : some.stop].T, np.float32) for some in _some_of(range(resamples))]


_SPARSE_COST = 12
"""What a pair costs in a product with a sparse matrix, in cells of one with a dense matrix."""


def _counts(first_qN: NDArray[np.int64], pairs_T: NDArray[np.int64]) -> tuple[csr_matrix, NDArray[np.float32]]:
    """Returns how many pairs of each query reach each threshold first: of the high ones sparse, of the others dense.

    Few pairs reach the high thresholds, where a sparse product passes over the queries that do not; down where most
    pairs are, a dense one is faster.

    Args:
        first_qN: the first threshold that each pair reaches; T where it reaches none.
        pairs_T: how many pairs reach each first.
    """
    from scipy.sparse import csr_matrix

    before = np.concatenate([[0], np.cumsum(pairs_T)])
    dense_cells = len(first_qN) * np.arange(len(pairs_T), -1, -1)
    split = int(np.argmin(_SPARSE_COST * before + dense_cells))

    def of_thresholds(first: int, last: int) -> csr_matrix:
        inside_qN = (first_qN >= first) & (first_qN < last)
        ends = np.concatenate([[0], np.cumsum(inside_qN.sum(axis=1))])
        columns = (first_qN[inside_qN] - first).astype(np.int32)
        return csr_matrix((np.ones(len(columns), np.float32), columns, ends), shape=(len(first_qN), last - first))

    return of_thresholds(0, split), of_thresholds(split, len(pairs_T)).toarray()


def _add_weighted(
    into_Tr: NDArray[np.float32],
    counts: tuple[csr_matrix, NDArray[np.float32]],
    weights_qr: NDArray[np.float32],
) -> None:
    """Adds the pairs that reach each threshold first, each as often as a resample holds its query."""
    high_qT, low_qT = counts
    split = high_qT.shape[1]
    into_Tr[:split] += high_qT.T @ weights_qr
    into_Tr[split:] += low_qT.T @ weights_qr


_MICRO_BLOCK = 1 << 22
"""Pairs of a query with a row that are counted at a time: few large products."""


def _in_blocks(
    all_scores: Iterable[tuple[slice, NDArray[np.float32]]],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yields (queries [q], their scores [q, N]), put together or cut from what comes to blocks of one size."""
    waiting: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
    size = 0
    for chosen, scores_qN in all_scores:
        size = max(1, _MICRO_BLOCK // scores_qN.shape[1])
        waiting.append((np.arange(chosen.start, chosen.start + len(scores_qN)), scores_qN))
        if sum(len(rows_q) for rows_q, _ in waiting) >= size:
            yield from _cut(waiting, size)
            waiting = []
    if waiting:
        yield from _cut(waiting, size)


def _cut(
    parts: list[tuple[NDArray[np.int64], NDArray[np.float32]]], size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    rows_q, scores_qN = (np.concatenate(each) for each in zip(*parts, strict=True))
    for start in range(0, len(rows_q), size):
        yield rows_q[start : start + size], scores_qN[start : start + size]


def _micro_areas(true_xT: NDArray[Any], at_least_xT: NDArray[Any]) -> NDArray[Any]:
    """Returns the AP of the true pairs at each threshold, the highest first, of all pairs that reach each."""
    precision_xT = np.cumsum(true_xT, axis=-1) / np.maximum(at_least_xT, 1)
    # Summed from the lowest threshold on: the order is a part of the last digits.
    parts_xT = np.ascontiguousarray((true_xT * precision_xT)[..., ::-1])
    area_x: NDArray[Any] = parts_xT.sum(axis=-1) / np.maximum(true_xT.sum(axis=-1), 1)
    return area_x


_DRAWN_TOGETHER = 1 << 16
"""Queries of resamples that are drawn at a time."""


def mean_score(values_Q: NDArray[np.float64], *, left_out: int, resamples: int, rng: np.random.Generator) -> Score:
    """Returns the mean over queries with its bootstrap 95 % interval, and how many queries had nothing to find."""
    count = len(values_Q)
    together = max(1, _DRAWN_TOGETHER // count)
    sizes = [min(together, resamples - start) for start in range(0, resamples, together)]
    draws_R = np.concatenate([values_Q[rng.integers(count, size=(size, count))].mean(axis=1) for size in sizes])
    details: dict[str, float | int | str] = {"queries_left_out": left_out} if left_out else {}
    return Score(value=float(values_Q.mean()), ci95=percentile_interval(draws_R), details=details, items=values_Q)
