"""Low-shot classification: logistic regression on a small training set, its strength chosen by cross-validation.

The solver of `linear` (features standardised on the fitted part, L2-regularised multinomial logistic regression by
L-BFGS) where a held-out tenth would be a dozen images: every image is held out once, in one of F stratified folds, and
the strength that classifies most of them right is refitted on all images and tested once. Of equally good strengths,
the smallest C.

A class of fewer than F images is held out in as many folds as it has images. The image of a class that has only one is
in the fitted part of every fold, and never held out: without it, no strength could predict its class.

Shapes: N items, C classes, P strengths, F folds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.values import EvaluationData, FeatureBank, Score
from massl_bench.protocols.linear import GridParams, classification_scores, held_out_values
from massl_bench.protocols.shared.labels import check_every_class, check_not_empty, class_count, single_labels

ROLES = ("train", "test")
NEEDS_TORCH = True

_NEVER = -1
"""The fold of an image that is never held out."""


class Params(GridParams):
    """The parameters of the protocol."""

    num_folds: int = Field(ge=2)


def metric_names(params: Params) -> list[str]:
    """Returns the metrics; their names do not depend on the parameters."""
    return ["top1", "top5", "mean_per_class"]


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for an empty split, or fewer training images than folds."""
    check_not_empty(ROLES, num_items)
    if num_items["train"] < params.num_folds:
        raise RequestError(
            f"{num_items['train']} training images cannot be cut into {params.num_folds} folds; at least "
            f"{params.num_folds} are needed, or --set num_folds={max(2, num_items['train'])}"
        )


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> dict[str, Score]:
    """Returns top-1, top-5 and mean per-class accuracy with bootstrap intervals.

    Raises:
        RequestError: A split is empty or without labels; fewer than two classes; fewer images than folds.
        CellError: A class has no training item; fewer images than folds can be held out; every feature dimension is
            constant.
    """
    from massl_bench.learners.logistic import Stopping, fit

    check_sizes(params, {role: len(bank) for role, bank in data.banks.items()})
    train, test = data.banks["train"], data.banks["test"]
    labels, truth = single_labels("train", train), single_labels("test", test)
    num_classes = class_count(data)
    check_every_class(labels, num_classes, train.class_names)
    fold_N = stratified_folds(labels, params.num_folds, rng)
    strength, validation = _select(train, labels, num_classes, fold_N, params, data.backend.device)
    stopping = Stopping(tolerance=params.tolerance, max_iterations=params.max_iterations)
    final = fit(train.features, labels, num_classes, np.array([strength]), stopping, device=data.backend.device)
    details: dict[str, float | int | str] = {
        "C": strength,
        "selection_split": f"{params.num_folds}-fold cross-validation",
        "selection_value": validation,
        "never_held_out": int((fold_N == _NEVER).sum()),
        "converged": str(bool(final.converged_P[0])).lower(),
    }
    found = classification_scores(final.scores(test.features), truth, params.bootstrap_resamples, rng)
    return {name: Score(value=score.value, ci95=score.ci95, details=details) for name, score in found.items()}


def stratified_folds(labels_N: NDArray[np.int64], num_folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns the fold in which each item is held out, int64 [N]; −1 for the only item of a class.

    The items are shuffled, sorted by class and dealt to the folds in turn: the sizes of the folds, and each class's
    share of them, differ by one item at most.

    Raises:
        CellError: A fold would stay empty: too few items are of a class with several.
    """
    order = rng.permutation(len(labels_N))
    order = order[np.argsort(labels_N[order], kind="stable")]
    dealt = order[np.bincount(labels_N)[labels_N[order]] > 1]
    if len(dealt) < num_folds:
        raise CellError(
            f"{len(dealt)} of {len(labels_N)} training images are of a class with several, and only these "
            f"can be held out; {num_folds} folds need {num_folds}: raise --limit train=N, or take a larger split"
        )
    fold_N = np.full(len(labels_N), _NEVER, dtype=np.int64)
    fold_N[dealt] = np.arange(len(dealt)) % num_folds
    return fold_N


def _select(
    train: FeatureBank,
    labels_N: NDArray[np.int64],
    num_classes: int,
    fold_N: NDArray[np.int64],
    params: Params,
    device: str,
) -> tuple[float, float]:
    """Returns (C, its accuracy over all items that are held out in a fold)."""
    right_P = np.zeros(params.num_c)
    for fold in range(params.num_folds):
        rows = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
        values_P = held_out_values(train.features, labels_N, num_classes, rows, params, device)
        right_P += np.rint(values_P * len(rows[1]))
    best = int(right_P.argmax())
    return float(params.strengths[best]), float(right_P[best] / (fold_N != _NEVER).sum())
