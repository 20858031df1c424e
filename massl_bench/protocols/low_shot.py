"""Low-shot classification: logistic regression on a small training set, its strength chosen by cross-validation.

The solver of `linear` (features standardised on the fitted part, L2-regularised multinomial logistic regression by
L-BFGS) where a held-out tenth would be a dozen images: every image is held out once, in one of F stratified folds, and
the strength that classifies most of them right is refitted on all images and tested once. Of equally good strengths,
the one of the least held-out loss.

A class of fewer than F images is held out in as many folds as it has images. The image of a class that has only one is
in the fitted part of every fold, and never held out: without it, no strength could predict its class.

Shapes: N items, C classes, P strengths, F folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from pydantic import Field

from massl_bench.core.errors import RequestError
from massl_bench.core.memory import Extent, Memory
from massl_bench.core.values import EvaluationData, Scores
from massl_bench.core.wording import parameters
from massl_bench.metrics.classification import classification_scores
from massl_bench.protocols.base import Protocol
from massl_bench.protocols.shared.fitting import memory_of_fits
from massl_bench.protocols.shared.labels import check_every_class, check_not_empty, class_count, single_labels
from massl_bench.protocols.shared.selection import (
    NEVER,
    GridParams,
    Training,
    folds_of,
    select_strength,
    stratified_folds,
)

_ROLES = ("train", "test")


class Params(GridParams):
    """The parameters of the protocol."""

    num_folds: int = Field(ge=2)


def metric_names(params: Params) -> list[str]:
    """Returns the metrics; their names do not depend on the parameters."""
    return ["top1", "top5", "mean_per_class"]


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for an empty split, or fewer training images than folds."""
    check_not_empty(_ROLES, num_items)
    if num_items["train"] < params.num_folds:
        raise RequestError(
            f"{num_items['train']} training images cannot be cut into {params.num_folds} folds; at least "
            f"{params.num_folds} are needed, or {parameters(num_folds=max(2, num_items['train']))}"
        )


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> Scores:
    """Returns top-1, top-5 and mean per-class accuracy with bootstrap intervals.

    Raises:
        RequestError: A split is empty or without labels; fewer than two classes; fewer images than folds.
        CellError: A class has no training item; fewer images than folds can be held out; every feature dimension is
            constant.
    """
    from massl_bench.learners.logistic import Watched

    check_sizes(params, {role: len(bank) for role, bank in data.banks.items()})
    train, test = data.banks["train"], data.banks["test"]
    labels, truth = single_labels("train", train), single_labels("test", test)
    num_classes = class_count(data)
    check_every_class(labels, num_classes, train.class_names)
    fold_N = stratified_folds(labels, params.num_folds, rng)
    training = Training(
        features_ND=train.features,
        targets=labels,
        num_classes=num_classes,
        params=params,
        device=data.backend.device,
        watched=Watched(total=params.num_folds * params.num_c + 1, report=data.report),
    )
    selection = select_strength(training, folds_of(fold_N))
    final = training.fit(np.array([selection.strength]))
    details: dict[str, float | int | str] = {
        "C": selection.strength,
        "selection_split": f"{params.num_folds}-fold cross-validation",
        "selection_value": selection.value,
        "never_held_out": int((fold_N == NEVER).sum()),
        "converged": str(bool(final.converged_P[0])).lower(),
    }
    found = classification_scores(final.scores(test.features), truth, params.bootstrap_resamples, rng)
    scores = {name: replace(score, details=details) for name, score in found.items()}
    return Scores(scores, notes=selection.notes, selection=selection.curve)


def memory(params: Params, extent: Extent) -> Memory:
    """Returns what the fits on all folds but one, the comparison of their strengths and the test hold."""
    count = extent.num_items["train"]
    return memory_of_fits(
        extent,
        num_rows=count,
        num_strengths=params.num_c,
        num_held_out=-(-count // params.num_folds),
        resamples=params.bootstrap_resamples,
    )


PROTOCOL = Protocol(
    roles=_ROLES,
    params=Params,
    metric_names=metric_names,
    check_sizes=check_sizes,
    run=run,
    needs_torch=True,
    memory=memory,
)
