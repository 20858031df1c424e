"""Intersection over union of classes, and its interval. Shapes: N images, C classes, R resamples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from massl_bench.core.values import Score
from massl_bench.metrics.intervals import centred_interval


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelCounts:
    """How many pixels of an image are of a class, were given it, and both; of pixels that count."""

    both_NC: NDArray[np.int64]
    true_NC: NDArray[np.int64]
    given_NC: NDArray[np.int64]
    confusion_CC: NDArray[np.int64]
    """Of all images: [true, given]."""


def pixel_counts(
    truth_NX: NDArray[np.uint8], given_NX: NDArray[np.uint8], num_classes: int, ignored: int
) -> PixelCounts:
    """Returns the counts of images, uint8 [N, …]; pixels whose true value is `ignored`, or no class, do not count."""
    both, true, given = (np.zeros((len(truth_NX), num_classes), dtype=np.int64) for _ in range(3))
    confusion_CC = np.zeros((num_classes, num_classes), dtype=np.int64)
    for place, (truth_X, own_X) in enumerate(zip(truth_NX, given_NX, strict=True)):
        counts = truth_X != ignored
        pairs = truth_X[counts].astype(np.int64) * num_classes + own_X[counts]
        own_CC = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
        both[place], true[place], given[place] = own_CC.diagonal(), own_CC.sum(1), own_CC.sum(0)
        confusion_CC += own_CC
    return PixelCounts(both_NC=both, true_NC=true, given_NC=given, confusion_CC=confusion_CC)


def joined(parts: Sequence[PixelCounts]) -> PixelCounts:
    """Returns the counts of the images of all parts."""
    return PixelCounts(
        both_NC=np.concatenate([part.both_NC for part in parts]),
        true_NC=np.concatenate([part.true_NC for part in parts]),
        given_NC=np.concatenate([part.given_NC for part in parts]),
        confusion_CC=np.sum([part.confusion_CC for part in parts], axis=0),
    )


def mean_iou(
    both_xC: NDArray[np.float64], true_xC: NDArray[np.float64], given_xC: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Returns the mean over the classes that are there of both / (true + given − both), [x]."""
    union_xC = true_xC + given_xC - both_xC
    there_xC = true_xC > 0
    iou_xC = np.where(there_xC, both_xC / np.maximum(union_xC, 1), 0)
    mean_x: NDArray[np.float64] = iou_xC.sum(-1) / np.maximum(there_xC.sum(-1), 1)
    return mean_x


def matched_mean_iou(confusion_CC: NDArray[np.int64]) -> float:
    """Returns the mean IoU over all classes, there or not, after given classes were matched to true ones by it.

    As open-hummingbird-eval measures it: a matching for clusters, which have no class, of classes that have one.
    """
    union_CC = confusion_CC.sum(1, keepdims=True) + confusion_CC.sum(0, keepdims=True) - confusion_CC
    iou_CC = confusion_CC / np.maximum(union_CC, 1)
    true, given = linear_sum_assignment(-iou_CC)
    return float(iou_CC[true, given].sum() / len(confusion_CC))


def segmentation_scores(counts: PixelCounts, resamples: int, rng: np.random.Generator) -> dict[str, Score]:
    """Returns `miou` and `pixel_accuracy` with intervals over the images, and `miou_matched`."""
    columns = [column.astype(np.float64) for column in (counts.both_NC, counts.true_NC, counts.given_NC)]
    num_images = len(counts.both_NC)
    draws_RN = rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples)
    totals = [column.sum(0) for column in columns]
    resampled = [draws_RN @ column for column in columns]

    def accuracy(both: NDArray[np.float64], true: NDArray[np.float64], _: NDArray[np.float64]) -> NDArray[np.float64]:
        share: NDArray[np.float64] = both.sum(-1) / np.maximum(true.sum(-1), 1)
        return share

    found = {}
    for name, measure in (("miou", mean_iou), ("pixel_accuracy", accuracy)):
        value = float(measure(*totals))
        found[name] = Score(value=value, ci95=centred_interval(value, measure(*resampled)))
    return {**found, "miou_matched": Score(value=matched_mean_iou(counts.confusion_CC))}
