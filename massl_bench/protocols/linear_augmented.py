"""Linear evaluation as DINO and CARP publish it: a linear layer trained by gradient steps on augmented views.

Every epoch each training image goes through the frozen backbone in a new random view (RandomResizedCrop, flip), and the
layer takes a step on every batch; the learning rate follows a cosine from epoch to epoch, towards 0. Nothing is
selected: the layer after the last epoch is the result. The test images go through the backbone once, under the plain
preprocessing; the best epoch on them is noted beside the result, and never the result.

Of several learning rates, which are trained at once, one is chosen on training images that are held out.

Both scripts cut the views with torchvision's default filter, bilinear, and resize test images bicubically.

Shapes: N items, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from massl_bench.core.values import EvaluationData, Scores
from massl_bench.metrics.classification import classification_scores, rank_of_label
from massl_bench.protocols.base import Protocol
from massl_bench.protocols.shared.augmented import HeadParams, Recipe, draw_seeds, finite_scores, train, training_views
from massl_bench.protocols.shared.labels import check_every_class, check_not_empty, class_count, single_labels
from massl_bench.protocols.shared.rate_grid import Rates, effective, run_grid
from massl_bench.protocols.shared.selection import check_leaves_some

_ROLES = ("train", "test")


class Params(HeadParams):
    """The parameters of the protocol."""

    lr: Annotated[float, Field(gt=0)] | Rates
    """One, or several to choose from."""
    lr_reference_batch: Annotated[int, Field(gt=0)] | Literal["none"]
    """`lr` is multiplied by batch_size / this; `none`: taken as it is."""
    lars_trust: Annotated[float, Field(gt=0)] | Literal["none"]
    """Trust coefficient of LARS; `none`: SGD."""
    validation_share: float = Field(gt=0, lt=1)
    """Of each class of the training images, held out where there are several learning rates."""
    bootstrap_resamples: int = Field(gt=0)

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates as they are given."""
        return self.lr if isinstance(self.lr, tuple) else (self.lr,)

    def factor(self, epoch: int, done: float) -> float:
        """Returns what learning rates are multiplied by: a cosine that would reach 0 one epoch after the last."""
        return 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))


def metric_names(params: Params) -> list[str]:
    """Returns the metrics; their names do not depend on the parameters."""
    return ["top1", "top5", "mean_per_class"]


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for an empty split, or nothing to hold out."""
    check_not_empty(_ROLES, num_items)
    if len(params.rates) > 1:
        check_leaves_some(params.validation_share, num_items)


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> Scores:
    """Returns top-1, top-5 and mean per-class accuracy of the last epoch, with bootstrap intervals.

    Raises:
        RequestError: A split is empty or without labels; fewer than two classes; features were handed in.
        CellError: A class has no training item; an image is damaged; the loss is not finite.
    """
    rates = effective(params.rates, params, params.lr_reference_batch)
    lars_trust = None if params.lars_trust == "none" else params.lars_trust
    recipe = Recipe(rates=rates, schedule=params.factor, lars_trust=lars_trust)
    if len(rates) > 1:
        share, resamples = params.validation_share, params.bootstrap_resamples
        return run_grid(data, params, recipe, params.rates, rng, validation_share=share, resamples=resamples)
    views, test = training_views(data), data.banks["test"]
    truth = single_labels("test", test)
    check_every_class(views.labels, class_count(data), views.class_names)
    top1_E = []
    for (heads,) in train(data, np.arange(len(views.labels)), params, draw_seeds(rng), recipe):
        scores_NC = finite_scores(heads, test.features, rates[0])
        top1_E.append(float((rank_of_label(scores_NC, truth) == 0).mean()))
    details: dict[str, float | int | str] = {
        "effective_lr": rates[0],
        "best_epoch": int(np.argmax(top1_E)) + 1,
        "best_epoch_top1": max(top1_E),
    }
    found = classification_scores(scores_NC, truth, params.bootstrap_resamples, rng)
    return Scores({name: replace(score, details=details) for name, score in found.items()})


PROTOCOL = Protocol(
    roles=_ROLES,
    params=Params,
    metric_names=metric_names,
    check_sizes=check_sizes,
    run=run,
    view_roles=("train",),
    needs_torch=True,
)
