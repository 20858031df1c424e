"""Linear evaluation as DINOv2 made it common: many linear layers at once, one of which is chosen.

Of every ViT the class token of the last block and the class tokens of the last four, each with and without the mean of
the patch tokens, each at 13 learning rates: 52 layers that are trained by SGD on the same augmented views, in one pass
over the data. Of a network without tokens its own feature is the only representation.

The published script chooses the layer on the images that it then tests on (its validation set is the test set). Here
training images are held out for the choice, unless `choose_on` says `test`.

Shapes: N items.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from massl_bench.core.strict import IncreasingNumbers
from massl_bench.core.values import EvaluationData, Scores
from massl_bench.protocols.base import Protocol
from massl_bench.protocols.shared.augmented import HeadParams, Recipe, token_representations
from massl_bench.protocols.shared.labels import check_not_empty
from massl_bench.protocols.shared.rate_grid import Rates, effective, run_grid
from massl_bench.protocols.shared.selection import check_leaves_some

_ROLES = ("train", "test")


class Params(HeadParams):
    """The parameters of the protocol."""

    lr: Rates
    lr_reference_batch: Annotated[int, Field(gt=0)] | Literal["none"]
    """Learning rates are multiplied by batch_size / this; `none`: taken as they are."""
    cosine: Literal["step", "epoch"]
    """Whether the learning rate falls at every step, or at every epoch."""
    num_blocks: IncreasingNumbers
    """Of how many last blocks the class tokens make a representation."""
    choose_on: Literal["held-out", "test"]
    validation_share: float = Field(gt=0, lt=1)
    """Of each class of the training images, held out where there is no validation split."""
    bootstrap_resamples: int = Field(gt=0)

    def factor(self, epoch: int, done: float) -> float:
        """Returns what learning rates are multiplied by: a cosine that would reach 0 behind the last epoch."""
        progress = epoch + (done if self.cosine == "step" else 0)
        return 0.5 * (1 + math.cos(math.pi * progress / self.epochs))


def metric_names(params: Params) -> list[str]:
    """Returns the metrics; their names do not depend on the parameters."""
    return ["top1", "top5", "mean_per_class"]


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for an empty split, or nothing to hold out."""
    check_not_empty(_ROLES, num_items)
    if params.choose_on == "held-out":
        check_leaves_some(params.validation_share, num_items)


def unfit_for_suites(params: Params) -> str | None:
    """Returns why no suite may have it: it chooses on the test images; None where it does not."""
    return "chooses on the test images" if params.choose_on == "test" else None


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> Scores:
    """Returns top-1, top-5 and mean per-class accuracy of the chosen layer; raises as `run_grid`."""
    recipe = Recipe(
        rates=effective(params.lr, params, params.lr_reference_batch),
        schedule=params.factor,
        lars_trust=None,
        representations=token_representations(data.banks["test"].parts, params.num_blocks),
    )
    share = params.validation_share if params.choose_on == "held-out" else None
    return run_grid(data, params, recipe, params.lr, rng, validation_share=share, resamples=params.bootstrap_resamples)


PROTOCOL = Protocol(
    roles=_ROLES,
    params=Params,
    metric_names=metric_names,
    check_sizes=check_sizes,
    run=run,
    optional_roles=("val",),
    view_roles=("train",),
    unfit_for_suites=unfit_for_suites,
    needs_torch=True,
)
