"""Accuracies and their bootstrap intervals. Shapes: N items, C classes, R resamples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.values import Score
from massl_bench.metrics.intervals import percentile_interval


def rank_of_label(scores_NC: NDArray[np.floating], labels_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns for each item how many classes come before its own: 0 means a correct top-1 prediction.

    Classes are ordered by larger score, then by lower class index, so that the order is total and no sort is needed.

    Args:
        scores_NC: one score for each item and class.
        labels_N: the true classes, in [0, C).
    """
    own_N1 = np.take_along_axis(scores_NC, labels_N[:, None], axis=1)
    tied_before_NC = (scores_NC == own_N1) & (np.arange(scores_NC.shape[1]) < labels_N[:, None])
    rank_N: NDArray[np.int64] = ((scores_NC > own_N1) | tied_before_NC).sum(axis=1, dtype=np.int64)
    return rank_N


def mean_accuracies(right_N: NDArray[np.bool_], labels_N: NDArray[np.int64]) -> tuple[float, float]:
    """Returns (share of right items, mean of the shares of the classes that are there)."""
    items_C = np.bincount(labels_N)
    right_C = np.bincount(labels_N, weights=right_N)
    return float(right_N.mean()), float((right_C[items_C > 0] / items_C[items_C > 0]).mean())


def accuracy(
    correct_N: NDArray[np.bool_], labels_N: NDArray[np.int64], *, resamples: int, rng: np.random.Generator
) -> tuple[Score, Score]:
    """Returns the accuracy over items and the mean of the per-class accuracies, each with a bootstrap 95 % interval.

    A resample of N items drawn with replacement matters only through how many items of each (class, correct) cell it
    holds, and these counts are multinomial: they are drawn directly, which is exact and does not grow with N. A class
    that a resample does not hold leaves that resample's mean.

    Args:
        correct_N: whether each item was predicted correctly.
        labels_N: the true classes; classes without an item do not enter the mean.
        resamples: R, the number of bootstrap resamples.
        rng: draws the resamples.

    Returns:
        (accuracy, mean per class).
    """
    _, class_N = np.unique(labels_N, return_inverse=True)
    num_present = int(class_N.max()) + 1
    cells = np.bincount(2 * class_N + correct_N, minlength=2 * num_present)
    counts_RC2 = rng.multinomial(len(correct_N), cells / cells.sum(), size=resamples).reshape(resamples, num_present, 2)

    def both(counts_xC2: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        items_xC = counts_xC2.sum(axis=-1)
        right_xC = counts_xC2[..., 1]
        present_xC = items_xC > 0
        per_class_xC = right_xC / np.maximum(items_xC, 1)
        return right_xC.sum(-1) / items_xC.sum(-1), per_class_xC.sum(-1) / present_xC.sum(-1)

    values = both(cells.reshape(num_present, 2))
    draws = both(counts_RC2)
    top, mean = (
        Score(value=float(value), ci95=percentile_interval(draw), items=items)
        for value, draw, items in zip(values, draws, (correct_N, None), strict=True)
    )
    return top, mean


def classification_scores(
    scores_NC: NDArray[np.floating], labels_N: NDArray[np.int64], resamples: int, rng: np.random.Generator
) -> dict[str, Score]:
    """Returns `top1`, `top5` and `mean_per_class` with their intervals."""
    rank_N = rank_of_label(scores_NC, labels_N)
    top1, per_class = accuracy(rank_N == 0, labels_N, resamples=resamples, rng=rng)
    top5, _ = accuracy(rank_N < 5, labels_N, resamples=resamples, rng=rng)
    return {"top1": replace(top1, predicted=scores_NC.argmax(axis=1)), "top5": top5, "mean_per_class": per_class}
