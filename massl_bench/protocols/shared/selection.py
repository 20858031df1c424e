"""The strength of a logistic regression, chosen on training items that are held out from the fit.

The strength that is best on the held-out items wins: by accuracy, or by mAP for several labels an image. Few items
cannot tell strengths apart (all eight may be right from C = 1e-2 to 1e5): of strengths that are equally good, the one
of the least held-out loss is taken, of equal losses the smallest C. Where a single held-out part would be too small,
every item is held out once, in one of several folds.

Shapes: N items, D dimensions, C classes, P strengths, F folds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from massl_bench.core.arrays import Stacked
from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.strict import StrictModel
from massl_bench.core.wording import asked
from massl_bench.metrics.multilabel import mean_average_precision

if TYPE_CHECKING:  # torch: not for reading specs
    from massl_bench.learners.logistic import Classifiers, Watched

NEVER = -1
"""The fold of an item that is never held out."""

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
"""(the rows that are fitted, those that are held out)."""


class GridParams(StrictModel):
    """The strengths that are tried, and when a fit counts as solved."""

    log10_c_min: float
    log10_c_max: float
    num_c: int = Field(gt=0)
    """The strengths are 10 ** linspace(log10_c_min, log10_c_max, num_c)."""
    tolerance: float = Field(gt=0)
    """As `logistic.Stopping`: of the gradient of the mean loss, in the metric of the inverse Hessian at zero."""
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


class HoldOutParams(GridParams):
    """The strengths, and what they are chosen on."""

    validation_share: float = Field(gt=0, lt=1)
    """Of the training set, held out where there is no validation split."""
    min_held_out: int = Field(ge=0)
    """Where the share is fewer images, all are held out, in as many folds as the share goes into one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """What is fitted, and when a fit counts as solved."""

    features_ND: NDArray[np.float32] | Stacked
    targets: NDArray[Any]
    """int64 [N], or int8 [N, C] with 1 present, 0 difficult, −1 absent."""
    num_classes: int
    params: GridParams
    device: str
    """Where to compute."""
    watched: Watched | None = None
    """Is told how far the fits are."""

    def fit(self, strengths: NDArray[np.float64], rows_n: NDArray[np.int64] | None = None) -> Classifiers:
        """Returns a classifier for each strength, of the given rows or of all."""
        from massl_bench.learners import logistic  # torch: not for reading specs

        return logistic.fit(
            self.features_ND,
            self.targets,
            self.num_classes,
            strengths,
            logistic.Stopping(
                tolerance=self.params.tolerance, max_iterations=self.params.max_iterations, watched=self.watched
            ),
            rows_n=rows_n,
            device=self.device,
        )


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The strength that was chosen."""

    strength: float
    value: float
    """Its accuracy, or its mAP, on the held-out items."""
    curve: Mapping[float, float]
    """The same of every strength that could be measured."""
    notes: tuple[str, ...]
    """That several strengths were equally good, where they were."""


def select_strength(training: Training, folds: Sequence[Fold]) -> Selection:
    """Returns the strength that is best on the held-out rows of all folds together.

    Raises:
        CellError: No held-out item shows any class, or all show all of them; every feature dimension is constant.
    """
    params = training.params
    value_P, loss_P = held_out_values(training, folds)
    count = sum(len(held_out) for _, held_out in folds)
    if np.isnan(value_P).all():
        raise CellError(
            f"none of the {count} held-out images shows any class that another lacks, so that no strength can be "
            f"chosen: raise {asked('limit', 'train=N')}"
        )
    tied = np.flatnonzero(value_P == np.nanmax(value_P))
    best = int(tied[loss_P[tied].argmin()])
    notes: tuple[str, ...] = ()
    if len(tied) > 1:
        metric = "accuracy" if training.targets.ndim == 1 else "mAP"
        notes = (
            f"{len(tied)} of {params.num_c} strengths have the same {metric} of {100 * value_P[best]:.2f} on {count} "
            f"held-out images; C = {params.strengths[best]:.4g} has the least loss on them",
        )
    curve = {
        float(strength): float(value)
        for strength, value in zip(params.strengths, value_P, strict=True)
        if np.isfinite(value)
    }
    return Selection(strength=float(params.strengths[best]), value=float(value_P[best]), curve=curve, notes=notes)


def held_out_values(training: Training, folds: Sequence[Fold]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns each strength's accuracy (several labels: mAP) and mean loss on the rows held out, float64 [P] each.

    The mAP of several folds is that of the scores of all of them, put together.
    """
    strengths, features, targets = training.params.strengths, training.features_ND, training.targets
    right_P, loss_P = np.zeros(len(strengths)), np.zeros(len(strengths))
    kept: list[list[NDArray[np.float32]]] = [[] for _ in strengths]
    for fitted, held_out in folds:
        grid = training.fit(strengths, fitted)
        truth = targets[held_out]
        if truth.ndim == 1:
            fold_right_P, fold_loss_P = grid.right_and_loss(features, held_out, truth)
            right_P += fold_right_P
            loss_P += fold_loss_P * len(held_out)
            continue
        for place, (scores_nC, loss) in enumerate(grid.on_rows(features, held_out, truth)):
            loss_P[place] += loss * len(held_out)
            if len(folds) > 1:
                kept[place].append(scores_nC)
            else:  # one after the other: the scores of all strengths may not fit into memory
                right_P[place] = mean_average_precision(scores_nC, truth, difficult_is_negative=False)[0]
    count = sum(len(held_out) for _, held_out in folds)
    if targets.ndim == 1:
        return right_P / count, loss_P / count
    if len(folds) > 1:
        truth = targets[np.concatenate([held_out for _, held_out in folds])]
        right_P = np.array(
            [mean_average_precision(np.concatenate(each), truth, difficult_is_negative=False)[0] for each in kept]
        )
    return right_P, loss_P / count


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """What is held out of the training items to choose on."""

    targets: NDArray[Any]
    """Of all items that train in the end: those of the training split, then those of a validation split."""
    folds: Sequence[Fold]
    split: str
    """The same in words."""


def held_out(
    labels: NDArray[Any],
    val_labels: NDArray[Any] | None,
    validation_from: int | None,
    params: HoldOutParams,
    rng: np.random.Generator,
) -> HeldOut:
    """Returns what is held out: the publisher's validation items, a share, or each item once.

    Args:
        labels: of the training items, int64 [N] or int8 [N, C].
        val_labels: of a validation split.
        validation_from: the first training item of the publisher's validation part, with which they may end.
        params: the share, and the fewest items that it may be.
        rng: draws it.
    """
    count = len(labels)
    if val_labels is not None:
        targets = np.concatenate([labels, val_labels])
        fitted, chosen = np.split(np.arange(len(targets)), [count])
        return HeldOut(targets=targets, folds=[(fitted, chosen)], split="val")
    if validation_from is not None:
        fitted, chosen = np.split(np.arange(count), [validation_from])
        split = f"val, the last {len(chosen)} of {count} train"
        return HeldOut(targets=labels, folds=[(fitted, chosen)], split=split)
    if count * params.validation_share < params.min_held_out:
        num_folds = max(2, min(round(1 / params.validation_share), num_to_hold_out(labels)))
        folds = folds_of(stratified_folds(labels, num_folds, rng))
        return HeldOut(targets=labels, folds=folds, split=f"{num_folds}-fold cross-validation of {count} train")
    chosen = hold_out(labels, params.validation_share, rng)
    how = "at random" if labels.ndim == 2 else "of each class at random"
    rest = np.setdiff1d(np.arange(count), chosen)
    return HeldOut(targets=labels, folds=[(rest, chosen)], split=f"{len(chosen)} of {count} train, {how}")


def check_leaves_some(share: float, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` where a share of the training split is no item, and there is no validation split."""
    if "val" not in num_items and num_items["train"] * share < 1:
        raise RequestError(
            f"a share of {share} of {num_items['train']} training images leaves nothing to select on; at least "
            f"{math.ceil(1 / share)} are needed, or a validation split"
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


def num_to_hold_out(labels: NDArray[Any]) -> int:
    """Returns how many items can be held out: all but those that are the only one of their class."""
    return len(labels) if labels.ndim == 2 else int((np.bincount(labels)[labels] > 1).sum())


def stratified_folds(labels: NDArray[Any], num_folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns the fold in which each item is held out, int64 [N]; −1 for the only item of a class.

    The items are shuffled, sorted by class (several labels an image: not sorted) and dealt to the folds in turn: the
    sizes of the folds, and each class's share of them, differ by one item at most.

    Raises:
        CellError: A fold would stay empty: too few items are of a class with several.
    """
    dealt = rng.permutation(len(labels))
    if labels.ndim == 1:
        order = dealt[np.argsort(labels[dealt], kind="stable")]
        dealt = order[np.bincount(labels)[labels[order]] > 1]
    if len(dealt) < num_folds:
        raise CellError(
            f"{len(dealt)} of {len(labels)} training images are of a class with several, and only these "
            f"can be held out; {num_folds} folds need {num_folds}: raise {asked('limit', 'train=N')}, or take a larger "
            "split"
        )
    fold_N = np.full(len(labels), NEVER, dtype=np.int64)
    fold_N[dealt] = np.arange(len(dealt)) % num_folds
    return fold_N


def folds_of(fold_N: NDArray[np.int64]) -> list[Fold]:
    """Returns the rows of each fold: those that are fitted, and those that are held out."""
    return [(np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)) for fold in range(int(fold_N.max()) + 1)]
