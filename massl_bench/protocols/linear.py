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

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import CellError
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
    HoldOutParams,
    Training,
    check_leaves_some,
    held_out,
    select_strength,
)

_ROLES = ("train", "test")
_READ = (*_ROLES, "val")

Params = HoldOutParams


def metric_names(params: Params) -> list[str]:
    """Returns the metrics of single-label data, then those of multi-label data."""
    return ["top1", "top5", "mean_per_class", "map", "map_11pt"]


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for an empty split, or a training split that leaves nothing to hold out."""
    check_not_empty(_ROLES, num_items)
    check_leaves_some(params.validation_share, num_items)


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
    held = held_out(labels["train"], labels.get("val"), train.validation_from, params, rng)
    val = data.banks.get("val")
    features = train.features if val is None else np.concatenate([train.features, val.features])
    device = data.backend.device
    training = Training(features_ND=features, targets=held.targets, num_classes=num_classes, device=device)
    selection = select_strength(training, held.folds, params)
    final = fit(features, held.targets, num_classes, np.array([selection.strength]), stopping, device=device)
    details: dict[str, float | int | str] = {
        "C": selection.strength,
        "selection_split": held.split,
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
