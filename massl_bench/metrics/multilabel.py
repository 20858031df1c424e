"""Average precision of multi-label classification (PASCAL VOC). Shapes: N items, C classes, R resamples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from massl_bench.types import Score

_WEIGHTS_PER_CHUNK = 1 << 22


def interpolated_average_precision(scores_N: NDArray[np.floating], present_N: NDArray[np.bool_]) -> float:
    """Returns the area under the interpolated precision-recall curve (VOC since 2010; FAIR's and CARP's SVM scripts).

    Precision at a recall is the largest at that recall or a higher one. Equal scores are ordered by index. NaN where
    nothing is present.
    """
    return float(_area(present_N[_best_first(scores_N)], np.ones((1, len(scores_N))))[0])


def eleven_point_average_precision(scores_N: NDArray[np.floating], present_N: NDArray[np.bool_]) -> float:
    """Returns the mean of the interpolated precision at the recalls 0, 0.1, …, 1 (VOC 2007, section 4.2)."""
    hit_N = present_N[_best_first(scores_N)]
    total = hit_N.sum()
    if total == 0:
        return float("nan")
    found_N = np.cumsum(hit_N)
    precision_N = np.maximum.accumulate((found_N / np.arange(1, len(hit_N) + 1))[::-1])[::-1]
    # A recall of t / 10 is reached with ceil(t · total / 10) items: in whole numbers, so that 0.3 is not 0.30000000004.
    needed = -(-np.arange(11) * total // 10)
    return float(precision_N[np.searchsorted(found_N, needed)].mean())


def _best_first(scores_N: NDArray[np.floating]) -> NDArray[np.int64]:
    return np.argsort(-scores_N, kind="stable")


def _area(hit_N: NDArray[np.bool_], weights_RN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the interpolated AP of ranked items for R weightings of the items (a bootstrap resample is one)."""
    hit_RN = weights_RN * hit_N
    found_RN = np.cumsum(hit_RN, axis=1)
    precision_RN = found_RN / np.maximum(np.cumsum(weights_RN, axis=1), 1e-12)
    precision_RN = np.maximum.accumulate(precision_RN[:, ::-1], axis=1)[:, ::-1]
    with np.errstate(invalid="ignore"):
        area_R: NDArray[np.float64] = (hit_RN * precision_RN).sum(axis=1) / found_RN[:, -1]
    return area_R


def mean_average_precision(
    scores_NC: NDArray[np.floating], labels_NC: NDArray[np.int8], *, difficult_is_negative: bool
) -> tuple[float, float, int]:
    """Returns (mAP, 11-point mAP, number of classes without a positive, which leave the mean).

    Args:
        scores_NC: one score for each item and class.
        labels_NC: 1 present, 0 difficult, −1 absent.
        difficult_is_negative: as in CARP's scripts; otherwise difficult items are left out, as in VOC's own.
    """
    values = []
    for scores_N, labels_N in zip(scores_NC.T, labels_NC.T, strict=True):
        counted_N = np.ones(len(labels_N), dtype=bool) if difficult_is_negative else labels_N != 0
        present_N = labels_N[counted_N] == 1
        if present_N.any():
            chosen_N = scores_N[counted_N]
            values.append(
                (
                    interpolated_average_precision(chosen_N, present_N),
                    eleven_point_average_precision(chosen_N, present_N),
                )
            )
    if not values:
        return float("nan"), float("nan"), labels_NC.shape[1]
    area, eleven = np.mean(values, axis=0)
    return float(area), float(eleven), labels_NC.shape[1] - len(values)


def mean_average_precision_interval(
    scores_NC: NDArray[np.floating], labels_NC: NDArray[np.int8], *, resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Returns the bootstrap 95 % interval over the items of the mAP without difficult items.

    A class that a resample holds no positive of leaves that resample's mean.
    """
    count = len(scores_NC)
    draws = np.empty(resamples)
    rows = max(1, _WEIGHTS_PER_CHUNK // count)
    ranked = [
        (order, labels[order])
        for order, labels in ((_best_first(s), y) for s, y in zip(scores_NC.T, labels_NC.T, strict=True))
    ]
    for start in range(0, resamples, rows):
        piece = slice(start, min(start + rows, resamples))
        weights_RN = rng.multinomial(count, np.full(count, 1 / count), size=piece.stop - start).astype(np.float64)
        areas_CR = np.array([_area(label == 1, weights_RN[:, order] * (label != 0)) for order, label in ranked])
        present_CR = ~np.isnan(areas_CR)
        draws[piece] = np.nansum(areas_CR, axis=0) / np.maximum(present_CR.sum(axis=0), 1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def scored(
    scores_NC: NDArray[np.floating], labels_NC: NDArray[np.int8], *, resamples: int, rng: np.random.Generator
) -> tuple[Score, Score]:
    """Returns (`map` with its interval, `map_11pt`), difficult items left out, classes without positives counted."""
    area, eleven, left_out = mean_average_precision(scores_NC, labels_NC, difficult_is_negative=False)
    interval = mean_average_precision_interval(scores_NC, labels_NC, resamples=resamples, rng=rng)
    details: dict[str, float | int | str] = {"classes_left_out": left_out} if left_out else {}
    return Score(value=area, ci95=interval, details=details), Score(value=eleven, details=details)
