"""Two models on the same items: is one better? Exact tests and the bootstrap interval of the difference.

Shapes: N items, M models, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from massl_bench.metrics.intervals import percentile_interval

RESAMPLES = 10_000
_BLOCK = 1 << 24
"""Drawn items that are held at a time."""


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """How the second of two models differs from the first.

    Attributes:
        value: mean of the items' differences, second minus first.
        ci95: 95 % interval of it, by the bootstrap over the items.
        better: items on which the second got more.
        worse: items on which it got less.
        p_value: two-sided, of the exact test that better and worse are equally likely where the two differ: McNemar's
            for right and wrong, the sign test otherwise.
    """

    value: float
    ci95: tuple[float, float]
    better: int
    worse: int
    p_value: float


def exact_p_value(better: NDArray[np.int64], worse: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the two-sided p-values of exact McNemar (or sign) tests from their counts; 1 where nothing differs.

    The smaller count is held against a binomial of better + worse throws and chance ½ (McNemar, Psychometrika 1947, in
    its exact form), doubled, as both directions count.
    """
    from scipy.special import bdtr

    better, worse = np.asarray(better), np.asarray(worse)
    total, fewer = better + worse, np.minimum(better, worse)
    p_values: NDArray[np.float64] = np.where(total > 0, np.minimum(1.0, 2.0 * bdtr(fewer, total, 0.5)), 1.0)
    return p_values


def compare_items(
    first_N: NDArray[np.generic], second_N: NDArray[np.generic], *, rng: np.random.Generator, resamples: int = RESAMPLES
) -> PairedDifference:
    """Returns how two models differ on the same items.

    Args:
        first_N: what each item got from the first model: bool, or float64.
        second_N: from the second, in the same order.
        rng: draws the resamples.
        resamples: R.

    Raises:
        ValueError: There is no item, or the two are not of the same number.
    """
    if first_N.shape != second_N.shape or first_N.ndim != 1 or not len(first_N):
        raise ValueError(f"expected two lists of as many items, found {first_N.shape} and {second_N.shape}")
    gained_N = second_N.astype(np.float64) - first_N.astype(np.float64)
    better, worse = int((gained_N > 0).sum()), int((gained_N < 0).sum())
    return PairedDifference(
        value=float(gained_N.mean()),
        ci95=percentile_interval(_means(gained_N, resamples, rng)),
        better=better,
        worse=worse,
        p_value=float(exact_p_value(np.array(better), np.array(worse))),
    )


def _means(gained_N: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Returns the mean of each resample, [R].

    Of few different values (−1, 0 and 1 for right and wrong) the counts of a resample are multinomial, and are drawn
    directly: exact, and no slower for many items.
    """
    values_V, counts_V = np.unique(gained_N, return_counts=True)
    count = len(gained_N)
    if len(values_V) <= 64:
        drawn_RV = rng.multinomial(count, counts_V / count, size=resamples)
        means_R: NDArray[np.float64] = drawn_RV @ values_V / count
        return means_R
    block = max(1, _BLOCK // count)
    parts = [
        gained_N[rng.integers(count, size=(min(block, resamples - start), count))].mean(axis=1)
        for start in range(0, resamples, block)
    ]
    return np.concatenate(parts)


def compare_resampled(
    difference: float, first_R: NDArray[np.float64], second_R: NDArray[np.float64]
) -> tuple[tuple[float, float], float]:
    """Returns the 95 % interval of a difference of two metrics of the same resamples, and its two-sided p-value.

    For metrics that are no mean over items, of which no exact test exists. The interval is the paired bootstrap's,
    centred as each metric's own; the p-value takes the difference as normal, with the bootstrap's standard error (Efron
    and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 12).

    Args:
        difference: second minus first, on the items themselves.
        first_R: the first model's metric of each resample.
        second_R: the second's, of the same.
    """
    gained_R = second_R - first_R
    low, high = percentile_interval(gained_R - gained_R.mean())
    interval = difference + min(low, 0.0), difference + max(high, 0.0)
    return interval, float(normal_p_values(np.array(difference), gained_R.std(ddof=1)))


def all_resampled_pairs(values_M: NDArray[np.float64], resampled_MR: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the p-values of `compare_resampled` of all pairs of models, [M, M].

    Args:
        values_M: each model's metric.
        resampled_MR: and of each resample.
    """
    p_MM = np.ones((len(values_M), len(values_M)))
    for one in range(len(values_M) - 1):
        error_m = (resampled_MR[one + 1 :] - resampled_MR[one]).std(axis=1, ddof=1)
        p_MM[one, one + 1 :] = normal_p_values(values_M[one + 1 :] - values_M[one], error_m)
    return np.minimum(p_MM, p_MM.T)


def normal_p_values(difference_x: NDArray[np.float64], error_x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns two-sided p-values of differences with their standard errors; 1 for no difference, whatever its error."""
    from scipy.special import erfc

    with np.errstate(divide="ignore", invalid="ignore"):
        z_x = np.abs(difference_x) / error_x
    p_x: NDArray[np.float64] = erfc(np.where(np.isnan(z_x), 0.0, z_x) / np.sqrt(2))
    return p_x


def all_pairs(items_MN: NDArray[np.generic]) -> NDArray[np.float64]:
    """Returns the exact tests' two-sided p-values of all pairs of models on the same items, [M, M].

    Args:
        items_MN: what each item got from each model: bool, or float64.
    """
    models = len(items_MN)
    if items_MN.dtype == np.bool_:
        right_MN = items_MN.astype(np.float32)  # whole numbers up to 2²⁴ are exact
        both_MM = (right_MN @ right_MN.T).astype(np.int64)
        alone_MM = np.diagonal(both_MM)[:, None] - both_MM  # right where the other is wrong
        return exact_p_value(alone_MM, alone_MM.T)
    p_MM = np.ones((models, models))
    for one in range(models):
        gained_mN = items_MN[one + 1 :] - items_MN[one]
        p_MM[one, one + 1 :] = exact_p_value((gained_mN > 0).sum(axis=1), (gained_mN < 0).sum(axis=1))
    return np.minimum(p_MM, p_MM.T)
