"""Average precision of multi-label classification (PASCAL VOC). Shapes: N items, C classes, R resamples.

A class without a positive item has no recall, and one without a negative item has every ranking right: neither can be
scored, and both leave the mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.values import Resampled, Score
from massl_bench.metrics.intervals import centred_interval, key_of_resamples

_WEIGHTS_PER_CHUNK = 1 << 22


def _best_first(scores_N: NDArray[np.floating]) -> NDArray[np.int64]:
    """Returns the order of falling scores; equal ones are ordered by index."""
    return np.argsort(-scores_N, kind="stable")


def _precisions(hit_N: NDArray[np.bool_], weights_RN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns (area, mean at 11 recalls) of ranked items, [2, R], for R weightings by whole numbers.

    The area is that under the interpolated precision-recall curve (VOC since 2010; FAIR's and CARP's SVM scripts):
    precision at a recall is the largest at that recall or a higher one. The mean is that at the recalls 0, 0.1, …, 1
    (VOC 2007, section 4.2). A bootstrap resample is a weighting. NaN where it holds nothing present.
    """
    hit_RN = weights_RN * hit_N
    found_RN = np.cumsum(hit_RN, axis=1)
    precision_RN = found_RN / np.maximum(np.cumsum(weights_RN, axis=1), 1e-12)
    precision_RN = np.maximum.accumulate(precision_RN[:, ::-1], axis=1)[:, ::-1]
    total_R = found_RN[:, -1]
    with np.errstate(invalid="ignore"):
        area_R = (hit_RN * precision_RN).sum(axis=1) / total_R
    # A recall of t / 10 is reached with ceil(t · total / 10) items: in whole numbers, so that 0.3 is not 0.30000000004.
    needed_R11 = np.ceil(np.arange(11) * total_R[:, None] / 10)
    eleven_R = np.array(
        [
            precision_N[np.searchsorted(found_N, needed)].mean() if needed[-1] > 0 else np.nan
            for precision_N, found_N, needed in zip(precision_RN, found_RN, needed_R11, strict=True)
        ]
    )
    return np.stack([area_R, eleven_R])


def lacking(labels_NC: NDArray[np.int8], *, difficult_is_negative: bool) -> dict[str, NDArray[np.int64]]:
    """Returns the classes that have no `positive` item and those that have no `negative` one: they cannot be scored.

    Arguments as of `mean_average_precision`.
    """
    negative_NC = labels_NC != 1 if difficult_is_negative else labels_NC == -1
    there = {"positive": (labels_NC == 1).any(axis=0), "negative": negative_NC.any(axis=0)}
    return {word: np.flatnonzero(~there_C) for word, there_C in there.items()}


def mean_average_precision(
    scores_NC: NDArray[np.floating], labels_NC: NDArray[np.int8], *, difficult_is_negative: bool
) -> tuple[float, float, int]:
    """Returns (mAP, 11-point mAP, number of classes that leave the mean as they cannot be scored).

    Args:
        scores_NC: one score for each item and class.
        labels_NC: 1 present, 0 difficult, −1 absent.
        difficult_is_negative: as in CARP's scripts; otherwise difficult items are left out, as in VOC's own.
    """
    values = []
    for scores_N, labels_N in zip(scores_NC.T, labels_NC.T, strict=True):
        counted_N = np.ones(len(labels_N), dtype=bool) if difficult_is_negative else labels_N != 0
        present_N = labels_N[counted_N] == 1
        if present_N.any() and not present_N.all():
            order_N = _best_first(scores_N[counted_N])
            values.append(_precisions(present_N[order_N], np.ones((1, len(order_N))))[:, 0])
    if not values:
        return float("nan"), float("nan"), labels_NC.shape[1]
    area, eleven = np.mean(values, axis=0)
    return float(area), float(eleven), labels_NC.shape[1] - len(values)


def _resampled(
    scores_NC: NDArray[np.floating],
    labels_NC: NDArray[np.int8],
    *,
    difficult_is_negative: bool,
    resamples: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Returns mAP and 11-point mAP of each bootstrap resample of the items, [2, R].

    A class that a resample holds no positive of leaves that resample's mean; one that cannot be scored, all of them.
    """
    count = len(scores_NC)
    draws_2R = np.empty((2, resamples))
    rows = max(1, _WEIGHTS_PER_CHUNK // count)
    unscored = np.concatenate([*lacking(labels_NC, difficult_is_negative=difficult_is_negative).values()])
    scored_C = np.setdiff1d(np.arange(labels_NC.shape[1]), unscored)
    ranked = [(order, labels_NC[order, index]) for index in scored_C for order in [_best_first(scores_NC[:, index])]]
    for start in range(0, resamples, rows):
        piece = slice(start, min(start + rows, resamples))
        weights_RN = rng.multinomial(count, np.full(count, 1 / count), size=piece.stop - start).astype(np.float64)
        found_C2R = np.array(
            [
                _precisions(label == 1, weights_RN[:, order] * (difficult_is_negative | (label != 0)))
                for order, label in ranked
            ]
        )
        present_C2R = ~np.isnan(found_C2R)
        draws_2R[:, piece] = np.nansum(found_C2R, axis=0) / np.maximum(present_C2R.sum(axis=0), 1)
    return draws_2R


def memory_of_resamples(count: int, resamples: int) -> int:
    """Returns about how many bytes `scored` holds at most beside its arguments, for so many items."""
    return 6 * 8 * min(count * resamples, max(_WEIGHTS_PER_CHUNK, count))


def scored(
    scores_NC: NDArray[np.floating],
    labels_NC: NDArray[np.int8],
    *,
    difficult_is_negative: bool,
    resamples: int,
    rng: np.random.Generator,
) -> tuple[Score, Score]:
    """Returns `map` and `map_11pt` with their intervals; classes that cannot be scored leave them and are counted.

    Arguments as of `mean_average_precision`; `resamples` is R.
    """
    *values, left_out = mean_average_precision(scores_NC, labels_NC, difficult_is_negative=difficult_is_negative)
    key = key_of_resamples(rng, resamples, labels_NC)
    draws_2R = _resampled(
        scores_NC, labels_NC, difficult_is_negative=difficult_is_negative, resamples=resamples, rng=rng
    )
    details: dict[str, float | int | str] = {"classes_left_out": left_out} if left_out else {}
    area, eleven = (
        Score(
            value=value,
            ci95=centred_interval(value, draws_R),
            details=details,
            resampled=Resampled(values=draws_R, key=key),
        )
        for value, draws_R in zip(values, draws_2R, strict=True)
    )
    return area, eleven
