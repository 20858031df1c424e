"""Low-shot evaluation as CARP publishes it on iNaturalist: a linear layer trained on augmented views of few images.

Of each class k training images are drawn (all of them where a class has fewer, as published), and a linear layer is
trained on augmented views of these, the frozen backbone in front of it; the learning rate falls at given epochs. The
layer after the last epoch is the result. The published script draws once; here every k is drawn several times, each
(k, run) for itself.

Shapes: N items, C classes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from massl_bench.draws import sampled_score
from massl_bench.labels import check_every_class, check_not_empty, class_count, single_labels
from massl_bench.metrics.classification import mean_accuracies
from massl_bench.protocols.linear_augmented import HeadParams, training_views
from massl_bench.types import EvaluationData, IncreasingNumbers, Score, TrainingViews, ViewPlan

ROLES = ("train", "test")
VIEW_ROLES = ("train",)
NEEDS_TORCH = True


class Params(HeadParams):
    """The parameters of the protocol."""

    shots: IncreasingNumbers
    """Images of each class."""
    num_draws: int = Field(gt=0)
    milestones: IncreasingNumbers
    """Epochs, from 0, from which on the learning rate is multiplied by another `gamma`."""
    gamma: float = Field(gt=0, le=1)

    @model_validator(mode="after")
    def _milestones_are_reached(self) -> Params:
        if self.milestones[-1] >= self.epochs:
            raise ValueError(f"milestones: {self.milestones[-1]} is never reached in {self.epochs} epochs")
        return self

    def lr_at(self, epoch: int) -> float:
        """Returns the learning rate of an epoch, from 0."""
        return self.lr * self.gamma ** bisect_right(self.milestones, epoch)


def metric_names(params: Params) -> list[str]:
    """Returns `top1@s{k}` and `mean_per_class@s{k}` for every number of shots."""
    return [f"{metric}@s{k}" for k in params.shots for metric in ("top1", "mean_per_class")]


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for an empty split."""
    check_not_empty("low-shot-inat", ROLES, num_items)


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> dict[str, Score]:
    """Returns top-1 and mean per-class accuracy for every k: mean, standard deviation and value of each draw.

    Raises:
        RequestError: A split is empty or without labels; fewer than two classes; features were handed in.
        CellError: A class has no training item; an image is damaged; the loss is not finite.
    """
    views = training_views("low-shot-inat", data)
    truth = single_labels("low-shot-inat", "test", data.banks["test"])
    num_classes = class_count("low-shot-inat", data)
    check_every_class("low-shot-inat", views.labels.astype(np.int64), num_classes, views.class_names)
    smallest = int(np.bincount(views.labels).min())
    scores = {}
    for k in params.shots:
        values = []
        for _ in range(params.num_draws):
            rows = draw_up_to(views.labels, k, rng)
            values.append(mean_accuracies(_scores(data, views, rows, params, rng), truth))
        details = {"effective_lr": params.lr, "images": len(rows), "fewest_of_a_class": min(k, smallest)}
        for name, column in zip(("top1", "mean_per_class"), np.array(values).T, strict=True):
            scores[f"{name}@s{k}"] = sampled_score(column.tolist(), details)
    return scores


def draw_up_to(labels_N: NDArray[np.int64], k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns k rows of every class, or all of a class that has fewer, drawn without replacement."""
    order = rng.permutation(len(labels_N))
    order = order[np.argsort(labels_N[order], kind="stable")]
    sorted_labels = labels_N[order]
    place_in_class = np.arange(len(order)) - np.searchsorted(sorted_labels, sorted_labels)
    rows: NDArray[np.int64] = order[place_in_class < k]
    return rows


def _scores(
    data: EvaluationData, views: TrainingViews, rows_n: NDArray[np.int64], params: Params, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Returns the test items' logits, float32 [N, C], of a layer that was trained on the given items."""
    from massl_bench.heads import HeadTraining, LinearHead  # torch: not for reading specs

    assert data.num_classes is not None
    plan_seed, head_seed = (int(seed) for seed in rng.integers(2**62, size=2))
    training = HeadTraining(
        lrs=[params.lr_at(epoch) for epoch in range(params.epochs)],
        momentum=params.momentum,
        weight_decay=params.weight_decay,
        lars_trust=None,
        init_std=params.init_std,
        seed=head_seed,
        device=data.backend.device,
    )
    plan = ViewPlan(
        rows=rows_n, num_epochs=params.epochs, batch_size=params.batch_size, augmentation=params, seed=plan_seed
    )
    test = data.banks["test"].features
    head = LinearHead(test.shape[1], data.num_classes, training)
    for _ in head.train(views.epochs(plan), views.labels.astype(np.int64), training):
        pass  # only the last epoch is tested
    return head.scores(test)
