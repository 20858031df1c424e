"""Retrieval measures of ranked lists. Shapes: Q queries, N database rows, P positives of a query, R resamples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.values import Score
from massl_bench.metrics.intervals import percentile_interval


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
