"""Linear evaluation on frozen features: logistic regression with its strength chosen on validation data.

The method of Kornblith et al. (CVPR 2019, section 3.2) and SimCLR (ICML 2020, appendix B.8): features standardised per
dimension, L2-regularised multinomial logistic regression by L-BFGS (multi-label: one-vs-rest), the strength C (in
scikit-learn's sense) from a grid, chosen on held-out data, refitted on all training data, tested once.

Held-out data: the official validation split where there is one (a bank `val`, or the part with which a training split
of `train + val` ends; the refit takes both together); otherwise a share of each class of the training set, drawn at
random (multi-label: of the whole). A share of fewer images than `min_held_out` cannot tell strengths apart: then every
training image is held out once, in folds of that share. Of equally good strengths, the one of the least held-out loss.
Difficult items of a class neither train nor test that class.

Shapes: N items, D dimensions, C classes, P strengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.values import EvaluationData, FeatureBank, Scores
from massl_bench.core.wording import asked
from massl_bench.metrics.classification import classification_scores
from massl_bench.metrics.multilabel import scored
from massl_bench.protocols.base import Protocol
from massl_bench.protocols.shared.labels import (
    check_every_class,
    check_not_empty,
    class_count,
    labels_of,
    multi_labels,
    scored_classes,
    single_labels,
)
from massl_bench.protocols.shared.selection import (
    Fold,
    GridParams,
    Training,
    folds_of,
    hold_out,
    num_to_hold_out,
    select_strength,
    stratified_folds,
)

_ROLES = ("train", "test")
_READ = (*_ROLES, "val")


class Params(GridParams):
    """The parameters of the protocol."""

    validation_share: float = Field(gt=0, lt=1)
    """Of the training set, held out where there is no validation split."""
    min_held_out: int = Field(ge=0)
    """Where the share is fewer images, all are held out, in as many folds as the share goes into one."""


def metric_names(params: Params) -> list[str]:
    """Returns the metrics of single-label data, then those of multi-label data."""
    return ["top1", "top5", "mean_per_class", "map", "map_11pt"]


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for an empty split, or a training split that leaves nothing to hold out."""
    check_not_empty(_ROLES, num_items)
    if "val" not in num_items and num_items["train"] * params.validation_share < 1:
        needed = int(np.ceil(1 / params.validation_share))
        raise RequestError(
            f"a share of {params.validation_share} of {num_items['train']} training images leaves nothing to "
            f"select on; at least {needed} are needed, or a validation split"
        )


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> Scores:
    """Returns top-1, top-5 and mean per-class accuracy (multi-label: mAP and 11-point mAP) with bootstrap intervals.

    Raises:
        RequestError: A split is empty or without labels; fewer than two classes.
        CellError: A class has no training item; every feature dimension is constant; no class has held-out, or test,
            items that show it and items that do not.
    """
    from massl_bench.learners.logistic import Stopping, fit

    check_sizes(params, {role: len(bank) for role, bank in data.banks.items()})
    train, test = data.banks["train"], data.banks["test"]
    multi = labels_of("train", train).ndim == 2
    num_classes = int(train.labels.shape[1]) if multi else class_count(data)  # type: ignore[union-attr]
    labels = {role: _labels(role, bank, multi) for role, bank in data.banks.items() if role in _READ}
    _check_classes(labels["train"], num_classes, train.class_names)
    notes = scored_classes(labels["test"], test.class_names, difficult_is_negative=False) if multi else ()
    stopping = Stopping(tolerance=params.tolerance, max_iterations=params.max_iterations)
    features, targets, folds, split = _held_out(train, data.banks.get("val"), labels, params, rng)
    training = Training(features_ND=features, targets=targets, num_classes=num_classes, device=data.backend.device)
    selection = select_strength(training, folds, params)
    final = fit(features, targets, num_classes, np.array([selection.strength]), stopping, device=data.backend.device)
    details: dict[str, float | int | str] = {
        "C": selection.strength,
        "selection_split": split,
        "selection_value": selection.value,
        "converged": str(bool(final.converged_P[0])).lower(),
    }
    scores_NC = final.scores(test.features)
    if multi:
        area, eleven = scored(
            scores_NC, labels["test"], difficult_is_negative=False, resamples=params.bootstrap_resamples, rng=rng
        )
        found = {"map": area, "map_11pt": eleven}
    else:
        found = classification_scores(scores_NC, labels["test"], params.bootstrap_resamples, rng)
    scores = {name: replace(score, details={**details, **score.details}) for name, score in found.items()}
    return Scores(scores, notes=(*selection.notes, *notes), selection=selection.curve)


def _held_out(
    train: FeatureBank,
    val: FeatureBank | None,
    labels: Mapping[str, NDArray[Any]],
    params: Params,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[Any], Sequence[Fold], str]:
    """Returns (features and targets of all that trains in the end, what is held out of it, the same in words)."""
    count, targets = len(train), labels["train"]
    if val is not None:
        features = np.concatenate([train.features, val.features])
        rows = np.split(np.arange(len(features)), [count])
        return features, np.concatenate([targets, labels["val"]]), [(rows[0], rows[1])], "val"
    if train.validation_from is not None:
        rows = np.split(np.arange(count), [train.validation_from])
        return train.features, targets, [(rows[0], rows[1])], f"val, the last {len(rows[1])} of {count} train"
    if count * params.validation_share < params.min_held_out:
        num_folds = max(2, min(round(1 / params.validation_share), num_to_hold_out(targets)))
        folds = folds_of(stratified_folds(targets, num_folds, rng))
        return train.features, targets, folds, f"{num_folds}-fold cross-validation of {count} train"
    chosen = hold_out(targets, params.validation_share, rng)
    how = "at random" if targets.ndim == 2 else "of each class at random"
    rest = np.setdiff1d(np.arange(count), chosen)
    return train.features, targets, [(rest, chosen)], f"{len(chosen)} of {count} train, {how}"


def _labels(role: str, bank: FeatureBank, multi: bool) -> NDArray[Any]:
    return multi_labels(role, bank) if multi else single_labels(role, bank)


def _check_classes(labels: NDArray[Any], num_classes: int, names: tuple[str, ...] | None) -> None:
    if labels.ndim == 1:
        check_every_class(labels, num_classes, names)
        return
    for value, word in ((1, "positive"), (-1, "negative")):
        missing = np.flatnonzero(~(labels == value).any(axis=0))
        if len(missing):
            raise CellError(
                f"{len(missing)} of {num_classes} classes have no {word} training image, the first is class "
                f"{missing[0]}; every class needs both: raise {asked('limit', 'train=N')}"
            )


PROTOCOL = Protocol(
    roles=_ROLES,
    params=Params,
    metric_names=metric_names,
    check_sizes=check_sizes,
    run=run,
    optional_roles=("val",),
    headlines={"multi-label": ("map", "map_11pt")},
    needs_torch=True,
)
