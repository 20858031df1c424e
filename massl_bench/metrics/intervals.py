"""95 % intervals of a metric. Shapes: R resamples, S draws."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TAILS = (0.025, 0.975)


def percentile_interval(draws_R: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the 2.5 % and 97.5 % quantiles of a metric over bootstrap resamples."""
    low, high = np.quantile(draws_R, _TAILS)
    return float(low), float(high)


def centred_interval(value: float, draws_R: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the interval that the bootstrap resamples span around their mean, moved to the value, within [0, 1].

    For metrics that resampling itself moves: a resample holds repeated items, which raises mutual information and
    average precision, so that the plain quantiles may lie beside the value.

    Args:
        value: the metric of the sample.
        draws_R: the metric of each resample.
    """
    low, high = percentile_interval(draws_R - draws_R.mean())
    return max(0.0, value + min(low, 0.0)), min(1.0, value + max(high, 0.0))


def mean_interval(values_S: Sequence[float]) -> tuple[float, float] | None:
    """Returns Student's interval of the mean of independent draws, within [0, 1]; None for a single one."""
    from scipy import stats

    if len(values_S) < 2:
        return None
    mean = float(np.mean(values_S))
    reach = float(stats.t.ppf(_TAILS[1], len(values_S) - 1) * np.std(values_S, ddof=1) / np.sqrt(len(values_S)))
    return max(0.0, mean - reach), min(1.0, mean + reach)


def key_of_resamples(rng: np.random.Generator, resamples: int, truth: NDArray[Any]) -> str:
    """Returns what tells the resamples apart that are about to be drawn, as hex sha256.

    Args:
        rng: what will draw them, and draws nothing here.
        resamples: R.
        truth: what the items are, in their order.
    """
    told = f"{rng.bit_generator.state} {resamples} {truth.shape} {truth.dtype.str}"
    return hashlib.sha256(told.encode() + np.ascontiguousarray(truth).tobytes()).hexdigest()
