"""Accuracy under corruptions (Hendrycks and Dietterich, ICLR 2019, section 4).

The error of a corruption is the mean over its severities; the mean corruption error (mCE) is the mean of the
corruptions' errors, each divided by that of a reference network first. All means are means over the images, each of
which is there once in every block: the bootstrap resamples images, with all that was made of them.

Shapes: B blocks, K corruptions, I images, N = B · I items, R resamples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.values import Corruptions, Score
from massl_bench.metrics.ranking import mean_score


def error_by_corruption(right_N: NDArray[np.bool_], corruptions: Corruptions) -> dict[str, float]:
    """Returns the mean over the severities of the error under each corruption, a fraction."""
    error_B = 1 - right_N.reshape(len(corruptions.blocks), corruptions.num_images).mean(axis=1)
    names = [name for name, _ in corruptions.blocks]
    return {
        name: float(np.mean([error for each, error in zip(names, error_B, strict=True) if each == name]))
        for name in dict.fromkeys(names)
    }


def corruption_values(right_N: NDArray[np.bool_], corruptions: Corruptions) -> dict[str, NDArray[np.float64]]:
    """Returns what each image gives to `accuracy`, `mce_plain` and, with a reference, `mce`: float64 [I] each."""
    right_BI = right_N.reshape(len(corruptions.blocks), corruptions.num_images)
    names = [name for name, _ in corruptions.blocks]
    kinds = list(dict.fromkeys(names))
    accuracy_KI = np.stack([right_BI[[name == kind for name in names]].mean(axis=0) for kind in kinds])
    accuracy_I = accuracy_KI.mean(axis=0)
    values = {"accuracy": accuracy_I, "mce_plain": 1 - accuracy_I}
    if corruptions.reference is not None:
        reference_K = np.array([corruptions.reference[kind] for kind in kinds])
        values["mce"] = ((1 - accuracy_KI) / reference_K[:, None]).mean(axis=0)
    return values


def corruption_scores(
    right_N: NDArray[np.bool_], corruptions: Corruptions, *, resamples: int, rng: np.random.Generator
) -> dict[str, Score]:
    """Returns `accuracy`, `mce_plain` and, with a reference, `mce`, with their intervals over resampled images.

    Each image's part is kept of `accuracy` only. `mce` is above 1 for a network that is worse than the reference.
    """
    errors: dict[str, float | int | str] = {
        f"error_{name}": value for name, value in error_by_corruption(right_N, corruptions).items()
    }
    scores = {}
    for name, value_I in corruption_values(right_N, corruptions).items():
        score = mean_score(value_I, left_out=0, resamples=resamples, rng=rng)
        items = score.items if name == "accuracy" else None
        scores[name] = Score(value=score.value, ci95=score.ci95, details=errors, items=items)
    return scores
