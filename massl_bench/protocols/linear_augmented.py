"""Linear evaluation as DINO and CARP publish it: a linear layer trained by gradient steps on augmented views.

Every epoch each training image goes through the frozen backbone in a new random view (RandomResizedCrop, flip), and the
layer takes a step on every batch; the learning rate follows a cosine from epoch to epoch, towards 0. Nothing is
selected: the layer after the last epoch is the result. The test images go through the backbone once, under the plain
preprocessing; the best epoch on them is noted beside the result, and never the result.

Both scripts cut the views with torchvision's default filter, bilinear, and resize test images bicubically.

Shapes: N items, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from massl_bench.core.errors import RequestError
from massl_bench.core.settings import Augmentation
from massl_bench.core.values import EvaluationData, Score, TrainingViews, ViewPlan
from massl_bench.metrics.classification import classification_scores, rank_of_label
from massl_bench.protocols.shared.labels import check_every_class, check_not_empty, class_count, single_labels

if TYPE_CHECKING:
    from massl_bench.learners.linear_head import LinearHead

ROLES = ("train", "test")
VIEW_ROLES = ("train",)
"""Splits that are seen in augmented views, epoch by epoch: no bank is extracted of them."""
NEEDS_TORCH = True


class HeadParams(Augmentation):
    """What every layer that is trained on augmented views needs."""

    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    lr: float = Field(gt=0)
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    init_std: float = Field(ge=0)
    """Of the normal weights at the start; the biases are 0."""


class Params(HeadParams):
    """The parameters of the protocol."""

    lr_reference_batch: Annotated[int, Field(gt=0)] | Literal["none"]
    """`lr` is multiplied by batch_size / this; `none`: taken as it is."""
    lars_trust: Annotated[float, Field(gt=0)] | Literal["none"]
    """Trust coefficient of LARS; `none`: SGD."""
    bootstrap_resamples: int = Field(gt=0)

    @property
    def effective_lr(self) -> float:
        """The learning rate of the first epoch."""
        return self.lr if self.lr_reference_batch == "none" else self.lr * self.batch_size / self.lr_reference_batch

    def lr_at(self, epoch: int) -> float:
        """Returns the learning rate of an epoch, from 0: a cosine that would reach 0 one epoch after the last."""
        return self.effective_lr * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))


def metric_names(params: Params) -> list[str]:
    """Returns the metrics; their names do not depend on the parameters."""
    return ["top1", "top5", "mean_per_class"]


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for an empty split."""
    check_not_empty(ROLES, num_items)


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> dict[str, Score]:
    """Returns top-1, top-5 and mean per-class accuracy of the last epoch, with bootstrap intervals.

    Raises:
        RequestError: A split is empty or without labels; fewer than two classes; features were handed in.
        CellError: A class has no training item; an image is damaged; the loss is not finite.
    """
    views, test = training_views(data), data.banks["test"]
    truth = single_labels("test", test)
    num_classes = class_count(data)
    check_every_class(views.labels, num_classes, views.class_names)
    lars_trust = None if params.lars_trust == "none" else params.lars_trust
    lrs = [params.lr_at(epoch) for epoch in range(params.epochs)]
    top1_E = []
    for head in train(data, np.arange(len(views.labels)), params, rng, lrs=lrs, lars_trust=lars_trust):
        scores_NC = head.scores(test.features)
        top1_E.append(float((rank_of_label(scores_NC, truth) == 0).mean()))
    details: dict[str, float | int | str] = {
        "effective_lr": params.effective_lr,
        "best_epoch": int(np.argmax(top1_E)) + 1,
        "best_epoch_top1": max(top1_E),
    }
    found = classification_scores(scores_NC, truth, params.bootstrap_resamples, rng)
    return {name: replace(score, details=details) for name, score in found.items()}


def train(
    data: EvaluationData,
    rows_n: NDArray[np.int64],
    params: HeadParams,
    rng: np.random.Generator,
    *,
    lrs: Sequence[float],
    lars_trust: float | None,
) -> Iterator[LinearHead]:
    """Yields the linear layer after each epoch of training on augmented views.

    Args:
        data: has views and a test bank.
        rows_n: the training items that are seen, int64 [n].
        params: of the layer and of the augmentation.
        rng: seeds the views and the layer's weights.
        lrs: learning rate of every epoch.
        lars_trust: trust coefficient of LARS; None for SGD.

    Raises:
        CellError: An image is damaged; the loss is not finite.
    """
    from massl_bench.learners.linear_head import HeadTraining, LinearHead

    assert data.views is not None
    assert data.num_classes is not None
    plan_seed, head_seed = (int(seed) for seed in rng.integers(2**62, size=2))
    training = HeadTraining(
        lrs=lrs,
        momentum=params.momentum,
        weight_decay=params.weight_decay,
        lars_trust=lars_trust,
        init_std=params.init_std,
        seed=head_seed,
        device=data.backend.device,
    )
    plan = ViewPlan(rows=rows_n, num_epochs=len(lrs), batch_size=params.batch_size, augmentation=params, seed=plan_seed)
    head = LinearHead(data.banks["test"].features.shape[1], data.num_classes, training)
    for _ in head.train(data.views.epochs(plan), data.views.labels.astype(np.int64)):
        yield head


def training_views(data: EvaluationData) -> TrainingViews:
    """Returns the training split in augmented views; raises `RequestError` where there are only features."""
    if data.views is None:
        raise RequestError(
            "trains on augmented views of the images, and was given features; give --model and --dataset, or "
            "take a task that needs features only: linear"
        )
    if data.views.labels.ndim != 1:
        raise RequestError("needs one label an image, and the train split has several (multi-label)")
    return data.views
