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

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.arrays import stacked
from massl_bench.core.errors import CellError
from massl_bench.core.memory import Extent, Memory
from massl_bench.core.values import EvaluationData, FeatureBank, Scores
from massl_bench.core.wording import asked
from massl_bench.metrics.multilabel import scored
from massl_bench.protocols.base import Protocol
from massl_bench.protocols.shared.answers import Answers
from massl_bench.protocols.shared.fitting import memory_of_fits
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
    Selection,
    Training,
    check_leaves_some,
    held_out,
    select_strength,
)

if TYPE_CHECKING:  # torch: not for reading specs
    from massl_bench.learners.logistic import Classifiers

_ROLES = ("train", "test")

Params = HoldOutParams


def metric_names(params: Params) -> list[str]:
    """Returns the metrics of single-label data, then those of multi-label data."""
    return ["top1", "top5", "mean_per_class", "map", "map_11pt"]


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for an empty split, or a training split that leaves nothing to hold out."""
    check_not_empty(_ROLES, num_items)
    check_leaves_some(params.validation_share, num_items)


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """A classifier that was trained, and how its strength was chosen."""

    classifier: Classifiers
    selection: Selection
    split: str
    """What the strength was chosen on."""
    num_classes: int


def fit(data: EvaluationData, params: Params, rng: np.random.Generator) -> Head:
    """Returns the classifier of the training split, its strength chosen on what is held out; raises as `run` does."""
    from massl_bench.learners.logistic import Watched

    check_sizes(params, {role: len(bank) for role, bank in data.banks.items()})
    train = data.banks["train"]
    multi = labels_of("train", train).ndim == 2
    num_classes = int(train.labels.shape[1]) if multi else class_count(data)  # type: ignore[union-attr]
    _check_test(data, num_classes, multi)  # before the work
    labels = {role: _labels(role, bank, multi) for role, bank in data.banks.items() if role in ("train", "val")}
    _check_classes(labels["train"], num_classes, train.class_names)
    held = held_out(labels["train"], labels.get("val"), train.validation_from, params, rng)
    training = Training(
        features_ND=stacked([data.banks[role].features for role in ("train", "val") if role in data.banks]),
        targets=held.targets,
        num_classes=num_classes,
        params=params,
        device=data.backend.device,
        watched=Watched(total=len(held.folds) * params.num_c + 1, report=data.report),
    )
    selection = select_strength(training, held.folds)
    final = training.fit(np.array([selection.strength]))
    return Head(classifier=final, selection=selection, split=held.split, num_classes=num_classes)


def test(head: Head, data: EvaluationData, params: Params, rng: np.random.Generator) -> Scores:
    """Returns the scores of a classifier on the test split; raises as `run` does."""
    bank, resamples = data.banks["test"], params.bootstrap_resamples
    details: dict[str, float | int | str] = {
        "C": head.selection.strength,
        "selection_split": head.split,
        "selection_value": head.selection.value,
        "converged": str(bool(head.classifier.converged_P[0])).lower(),
    }
    multi = labels_of("train", data.banks["train"]).ndim == 2
    notes = _check_test(data, head.num_classes, multi)
    if multi:
        scores_NC, labels = head.classifier.scores(bank.features), multi_labels("test", bank)
        area, eleven = scored(scores_NC, labels, difficult_is_negative=False, resamples=resamples, rng=rng)
        found = {"map": area, "map_11pt": eleven}
    else:
        answers = Answers.of(data, head.num_classes)
        found = answers.classification(head.classifier.scores, bank, resamples, rng)
    scores = {name: replace(score, details={**details, **score.details}) for name, score in found.items()}
    return Scores(scores, notes=(*head.selection.notes, *notes), selection=head.selection.curve)


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> Scores:
    """Returns top-1, top-5 and mean per-class accuracy (multi-label: mAP and 11-point mAP) with bootstrap intervals.

    Raises:
        RequestError: A split is empty or without labels; fewer than two classes.
        CellError: A class has no training item; every feature dimension is constant; no class has held-out, or test,
            items that show it and items that do not.
    """
    return test(fit(data, params, rng), data, params, rng)


def memory(params: Params, extent: Extent) -> Memory:
    """Returns what the fits on all that is not held out, the comparison of their strengths and the test hold."""
    count = extent.num_items["train"] + extent.num_items.get("val", 0)
    held_out = max(extent.num_items.get("val", 0), math.ceil(params.validation_share * extent.num_items["train"]))
    return memory_of_fits(
        extent,
        num_rows=count,
        num_strengths=params.num_c,
        num_held_out=held_out,
        resamples=params.bootstrap_resamples,
    )


def _check_test(data: EvaluationData, num_classes: int, multi: bool) -> tuple[str, ...]:
    """Returns the notes that name what the test split cannot score; raises as `run` for its labels."""
    if multi:
        bank = data.banks["test"]
        return scored_classes(multi_labels("test", bank), bank.class_names, difficult_is_negative=False)
    Answers.of(data, num_classes)
    return ()


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
    tests_heads=True,
    fit=fit,
    test=test,
    needs_torch=True,
    memory=memory,
)
