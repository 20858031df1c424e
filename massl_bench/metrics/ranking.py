"""Retrieval measures of ranked lists. Shapes: Q queries, N database rows, P positives of a query, R resamples."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from massl_bench.types import Score


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
    positive_scores_P: NDArray[np.float32], all_scores: Iterable[NDArray[np.float32]], num_positives: int
) -> float:
    """Returns the AP of all (query, row) pairs in one ranking (DISC21, Douze et al. 2021, arXiv 2106.09672, section 4).

    Precision is taken after all pairs of an equal score, so that no order among them matters.

    Args:
        positive_scores_P: scores of the true pairs.
        all_scores: blocks of the scores of all pairs, the true ones among them.
        num_positives: true pairs in all.
    """
    thresholds, pairs = np.unique(positive_scores_P, return_counts=True)
    at_least = np.zeros(len(thresholds), dtype=np.int64)
    for block in all_scores:
        # How many thresholds each score reaches; a score that reaches i of them counts for the lowest i.
        reached = np.bincount(np.searchsorted(thresholds, block.ravel(), side="right"), minlength=len(thresholds) + 1)
        at_least += np.cumsum(reached[::-1])[::-1][1:]
    true_at_least = np.cumsum(pairs[::-1])[::-1]
    return float((pairs * true_at_least / at_least).sum() / num_positives)


def mean_score(values_Q: NDArray[np.float64], *, left_out: int, resamples: int, rng: np.random.Generator) -> Score:
    """Returns the mean over queries with its bootstrap 95 % interval, and how many queries had nothing to find."""
    count = len(values_Q)
    draws_R = np.array([values_Q[rng.integers(count, size=count)].mean() for _ in range(resamples)])
    low, high = np.quantile(draws_R, (0.025, 0.975))
    details: dict[str, float | int | str] = {"queries_left_out": left_out} if left_out else {}
    return Score(value=float(values_Q.mean()), ci95=(float(low), float(high)), details=details)
