"""Linear evaluation on frozen features: logistic regression with its strength chosen on validation data.

The method of Kornblith et al. (CVPR 2019, section 3.2) and SimCLR (ICML 2020, appendix B.8): features standardised per
dimension, L2-regularised multinomial logistic regression by L-BFGS (multi-label: one-vs-rest), the strength C (in
scikit-learn's sense) from a grid, chosen on held-out data, refitted on all training data, tested once.

Held-out data: the official validation split where there is one (a bank `val`, or the part with which a training split
of `train + val` ends; the refit takes both together); otherwise a share of each class of the training set, drawn at
random (multi-label: of the whole). Of equally good strengths, the smallest C. Difficult items of a class neither train
nor test that class.

Shapes: N items, D dimensions, C classes, P strengths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.strict import StrictModel
from massl_bench.core.values import EvaluationData, FeatureBank, Score
from massl_bench.metrics.classification import accuracy, rank_of_label
from massl_bench.metrics.multilabel import mean_average_precision, scored
from massl_bench.protocols.shared.labels import (
    check_every_class,
    check_not_empty,
    class_count,
    labels_of,
    multi_labels,
    single_labels,
)

ROLES = ("train", "test")
OPTIONAL_ROLES = ("val",)
NEEDS_TORCH = True
HEADLINES = {"multi-label": ("map", "map_11pt")}
"""The metrics of a kind of dataset that the task's headline does not exist for; the first stands in for it."""


class GridParams(StrictModel):
    """The strengths that are tried, and when a fit counts as solved."""

    log10_c_min: float
    log10_c_max: float
    num_c: int = Field(gt=0)
    """The strengths are 10 ** linspace(log10_c_min, log10_c_max, num_c)."""
    tolerance: float = Field(gt=0)
    """As `solvers.Stopping`: of the gradient of the mean loss, in the metric of the inverse Hessian at zero."""
    max_iterations: int = Field(gt=0)
    bootstrap_resamples: int = Field(gt=0)

    @property
    def strengths(self) -> NDArray[np.float64]:
        """The values of C, smallest first, [P]."""
        grid_P: NDArray[np.float64] = 10 ** np.linspace(self.log10_c_min, self.log10_c_max, self.num_c)
        return grid_P

    @model_validator(mode="after")
    def _increasing(self) -> GridParams:
        if self.num_c > 1 and self.log10_c_min >= self.log10_c_max:
            raise ValueError(f"log10_c_min: expected less than log10_c_max = {self.log10_c_max}")
        return self


class Params(GridParams):
    """The parameters of the protocol."""

    validation_share: float = Field(gt=0, lt=1)
    """Of the training set, held out where there is no validation split."""


def metric_names(params: Params) -> list[str]:
    """Returns the metrics of single-label data, then those of multi-label data."""
    return ["top1", "top5", "mean_per_class", "map", "map_11pt"]


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for an empty split, or a training split that leaves nothing to hold out."""
    check_not_empty(ROLES, num_items)
    if "val" not in num_items and num_items["train"] * params.validation_share < 1:
        needed = int(np.ceil(1 / params.validation_share))
        raise RequestError(
            f"a share of {params.validation_share} of {num_items['train']} training images leaves nothing to "
            f"select on; at least {needed} are needed, or a validation split"
        )


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> dict[str, Score]:
    """Returns top-1, top-5 and mean per-class accuracy (multi-label: mAP and 11-point mAP) with bootstrap intervals.

    Raises:
        RequestError: A split is empty or without labels; fewer than two classes.
        CellError: A class has no training item; every feature dimension is constant; no held-out or test item shows any
            class.
    """
    from massl_bench.learners.logistic import Stopping, fit

    check_sizes(params, {role: len(bank) for role, bank in data.banks.items()})
    train, test = data.banks["train"], data.banks["test"]
    multi = labels_of("train", train).ndim == 2
    num_classes = int(train.labels.shape[1]) if multi else class_count(data)  # type: ignore[union-attr]
    labels = {
        role: _labels(role, bank, multi) for role, bank in data.banks.items() if role in (*ROLES, *OPTIONAL_ROLES)
    }
    _check_classes(labels["train"], num_classes, train.class_names)
    if multi and not (labels["test"] == 1).any():
        raise CellError("no class has a positive test image: there is no precision to average")
    stopping = Stopping(tolerance=params.tolerance, max_iterations=params.max_iterations)
    features, targets = train.features, labels["train"]
    if "val" in labels:
        fitted = np.arange(len(train))
        held_out = np.arange(len(train), len(train) + len(data.banks["val"]))
        features = np.concatenate([features, data.banks["val"].features])
        targets = np.concatenate([targets, labels["val"]])
        split = "val"
    elif train.validation_from is not None:
        fitted, held_out = np.split(np.arange(len(train)), [train.validation_from])
        split = f"val, the last {len(held_out)} of {len(train)} train"
    else:
        held_out = hold_out(targets, params.validation_share, rng)
        fitted = np.setdiff1d(np.arange(len(train)), held_out)
        split = f"{len(held_out)} of {len(train)} train, {'at random' if multi else 'of each class at random'}"
    strength, validation = _select(features, targets, num_classes, (fitted, held_out), params, data.backend.device)
    final = fit(features, targets, num_classes, np.array([strength]), stopping, device=data.backend.device)
    details: dict[str, float | int | str] = {
        "C": strength,
        "selection_split": split,
        "selection_value": validation,
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
    return {
        name: Score(value=score.value, ci95=score.ci95, details={**details, **score.details})
        for name, score in found.items()
    }


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
                f"{missing[0]}; every class needs both: raise --limit train=N"
            )


def hold_out(labels: NDArray[Any], share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns the rows, increasing, that are held out: `share` of each class at random (multi-label: of all).

    The rows are shuffled and sorted by class, and every (1/share)-th is taken from a random start: a class gives its
    share up to less than one item.
    """
    order = rng.permutation(len(labels))
    if labels.ndim == 1:
        order = order[np.argsort(labels[order], kind="stable")]
        # Without the only image of a class, no strength could predict it.
        several = order[np.bincount(labels)[labels[order]] > 1]
        order = several if len(several) else order
    passed = np.floor(np.arange(len(order) + 1) * share + rng.random())
    chosen: NDArray[np.int64] = np.sort(order[passed[1:] > passed[:-1]])
    return chosen if len(chosen) else order[:1]


def _select(
    features_ND: NDArray[np.float32],
    targets: NDArray[Any],
    num_classes: int,
    rows: tuple[NDArray[np.int64], NDArray[np.int64]],
    params: Params,
    device: str,
) -> tuple[float, float]:
    """Returns (C, its value on the held-out rows)."""
    values_P = held_out_values(features_ND, targets, num_classes, rows, params, device)
    if np.isnan(values_P).all():
        raise CellError(
            f"none of the {len(rows[1])} held-out images shows any class, so that no strength can be chosen: "
            "raise --limit train=N"
        )
    best = int(np.nanargmax(values_P))
    return float(params.strengths[best]), float(values_P[best])


def held_out_values(
    features_ND: NDArray[np.float32],
    targets: NDArray[Any],
    num_classes: int,
    rows: tuple[NDArray[np.int64], NDArray[np.int64]],
    params: GridParams,
    device: str,
) -> NDArray[np.float64]:
    """Returns each strength's value on held-out rows, float64 [P]: top-1 accuracy (multi-label: mAP).

    Args:
        features_ND: float32.
        targets: int64 [N], or int8 [N, C].
        num_classes: C.
        rows: (the rows that are fitted, those that are held out).
        params: the strengths and when to stop.
        device: where to compute.
    """
    from massl_bench.learners.logistic import Stopping, fit

    stopping = Stopping(tolerance=params.tolerance, max_iterations=params.max_iterations)
    fitted, held_out = rows
    grid = fit(features_ND, targets, num_classes, params.strengths, stopping, rows_n=fitted, device=device)
    truth = targets[held_out]
    values = []
    for scores_nC in grid.scores_of_rows(features_ND, held_out):
        if targets.ndim == 1:
            values.append(float((rank_of_label(scores_nC, truth) == 0).mean()))
        else:
            values.append(mean_average_precision(scores_nC, truth, difficult_is_negative=False)[0])
    return np.array(values)


def classification_scores(
    scores_NC: NDArray[np.floating], labels_N: NDArray[np.int64], resamples: int, rng: np.random.Generator
) -> dict[str, Score]:
    """Returns `top1`, `top5` and `mean_per_class` with their intervals."""
    rank_N = rank_of_label(scores_NC, labels_N)
    top1, per_class = accuracy(rank_N == 0, labels_N, resamples=resamples, rng=rng)
    top5, _ = accuracy(rank_N < 5, labels_N, resamples=resamples, rng=rng)
    return {"top1": top1, "top5": top5, "mean_per_class": per_class}
