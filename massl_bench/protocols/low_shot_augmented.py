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
from pydantic import Field, model_validator

from massl_bench.core.strict import IncreasingNumbers
from massl_bench.core.values import EvaluationData, Score
from massl_bench.metrics.classification import rank_of_label
from massl_bench.protocols.base import Protocol
from massl_bench.protocols.shared.augmented import HeadParams, Recipe, draw_seeds, finite_scores, train, training_views
from massl_bench.protocols.shared.draws import draw_up_to, sampled_accuracies
from massl_bench.protocols.shared.labels import check_every_class, check_not_empty, class_count, single_labels

_ROLES = ("train", "test")


class Params(HeadParams):
    """The parameters of the protocol."""

    lr: float = Field(gt=0)
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

    def factor(self, epoch: int, done: float) -> float:
        """Returns what the learning rate is multiplied by in an epoch, from 0, however much of it is done."""
        return self.gamma ** bisect_right(self.milestones, epoch)


def metric_names(params: Params) -> list[str]:
    """Returns `top1@s{k}` and `mean_per_class@s{k}` for every number of shots."""
    return [f"{metric}@s{k}" for k in params.shots for metric in ("top1", "mean_per_class")]


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for an empty split."""
    check_not_empty(_ROLES, num_items)


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> dict[str, Score]:
    """Returns top-1 and mean per-class accuracy for every k: mean, standard deviation and value of each draw.

    Raises:
        RequestError: A split is empty or without labels; fewer than two classes; features were handed in.
        CellError: A class has no training item; an image is damaged; the loss is not finite.
    """
    views, test = training_views(data), data.banks["test"]
    truth = single_labels("test", test)
    num_classes = class_count(data)
    check_every_class(views.labels, num_classes, views.class_names)
    recipe = Recipe(rates=[params.lr], schedule=params.factor, lars_trust=None)
    smallest = int(np.bincount(views.labels).min())
    scores = {}
    for k in params.shots:
        right_SN = np.empty((params.num_draws, len(truth)), dtype=bool)
        for right_N in right_SN:
            rows = draw_up_to(views.labels, k, rng)
            *_, (heads,) = train(data, rows, params, draw_seeds(rng), recipe)  # the last epoch is the result
            right_N[:] = rank_of_label(finite_scores(heads, test.features, params.lr), truth) == 0
        details = {"effective_lr": params.lr, "images": len(rows), "fewest_of_a_class": min(k, smallest)}
        scores[f"top1@s{k}"], scores[f"mean_per_class@s{k}"] = sampled_accuracies(right_SN, truth, details)
    return scores


PROTOCOL = Protocol(
    roles=_ROLES,
    params=Params,
    metric_names=metric_names,
    check_sizes=check_sizes,
    run=run,
    view_roles=("train",),
    needs_torch=True,
)
