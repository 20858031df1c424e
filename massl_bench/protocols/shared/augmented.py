"""A linear layer that is trained on augmented views, the frozen backbone in front of it.

Shapes: N items, n items that are seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from massl_bench.core.errors import RequestError
from massl_bench.core.settings import Augmentation
from massl_bench.core.values import EvaluationData, TrainingViews, ViewPlan
from massl_bench.core.wording import asked

if TYPE_CHECKING:
    from massl_bench.learners.linear_head import LinearHead


class HeadParams(Augmentation):
    """What every layer that is trained on augmented views needs."""

    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    lr: float = Field(gt=0)
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    init_std: float = Field(ge=0)
    """Of the normal weights at the start; the biases are 0."""


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
            "trains on augmented views of the images, and was given features",
            remedy=f"give {asked('model')} and {asked('dataset')}, or take a task that needs features only: linear",
        )
    if data.views.labels.ndim != 1:
        raise RequestError("needs one label an image, and the train split has several (multi-label)")
    return data.views
