"""Retrieval measures of ranked lists. Shapes: Q queries, N database rows, P positives of a query, R resamples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.values import Resampled, Score
from massl_bench.metrics.intervals import centred_interval, key_of_resamples, percentile_interval


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


def ranks_without(
    ranking_N: NDArray[np.int64], positives: NDArray[np.int64], ignored: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Returns the increasing ranks of the positives in a full ranking from which the ignored rows were removed."""
    counted_N = ranking_N[~np.isin(ranking_N, ignored)]
    ranks: NDArray[np.int64] = np.flatnonzero(np.isin(counted_N, positives))
    return ranks


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
    # How often each resample holds each query. Single precision is enough for the resamples, and twice as fast.
    key = key_of_resamples(rng, resamples, has_original_Q)
    weights_RQ = rng.multinomial(count, np.full(count, 1 / count), resamples).astype(np.float32)
    first_at_T = np.zeros(num_thresholds, dtype=np.int64)
    first_at_RT = np.zeros((resamples, num_thresholds), dtype=np.float32)
    for chosen, scores_qN in _in_blocks(all_scores, num_thresholds):
        # The first threshold that each score reaches; it reaches all after it, too.
        first_qN = num_thresholds - np.searchsorted(thresholds_T[::-1], scores_qN, side="right")
        first_qN += (num_thresholds + 1) * np.arange(len(scores_qN))[:, None]
        pairs = np.bincount(first_qN.ravel(), minlength=len(scores_qN) * (num_thresholds + 1))
        pairs_qT = pairs.reshape(len(scores_qN), -1)[:, :-1]
        first_at_T += pairs_qT.sum(axis=0)
        first_at_RT += weights_RQ[:, chosen] @ pairs_qT.astype(np.float32)
    at_least_T = np.cumsum(first_at_T)
    at_least_RT = np.cumsum(first_at_RT, axis=1, dtype=np.float64).astype(np.float32)
    value = float(_micro_areas(true_T, at_least_T))
    true_RT = np.add.reduceat(weights_RQ[:, true_P], first_T, axis=1)
    draws = _micro_areas(true_RT, at_least_RT)[true_RT.any(axis=1)].astype(np.float64)
    if not len(draws):
        return Score(value=value)
    resampled = Resampled(values=draws, key=key)  # which resamples hold no true pair, the key says too
    return Score(value=value, ci95=centred_interval(value, draws), resampled=resampled)


_MICRO_BLOCK = 1 << 24
"""Pairs of a query with a threshold, or with a row, that are counted at a time: few large matrix products."""


def _in_blocks(
    all_scores: Iterable[tuple[slice, NDArray[np.float32]]], num_thresholds: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yields (queries [q], their scores [q, N]), put together or cut from what comes to blocks of one size."""
    waiting: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
    size = 0
    for chosen, scores_qN in all_scores:
        size = max(1, _MICRO_BLOCK // max(num_thresholds + 1, scores_qN.shape[1]))
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


def mean_score(values_Q: NDArray[np.float64], *, left_out: int, resamples: int, rng: np.random.Generator) -> Score:
    """Returns the mean over queries with its bootstrap 95 % interval, and how many queries had nothing to find."""
    count = len(values_Q)
    draws_R = np.array([values_Q[rng.integers(count, size=count)].mean() for _ in range(resamples)])
    details: dict[str, float | int | str] = {"queries_left_out": left_out} if left_out else {}
    return Score(value=float(values_Q.mean()), ci95=percentile_interval(draws_R), details=details, items=values_Q)
