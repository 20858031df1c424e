"""Attentive probing: one query of attention over the patch tokens, and a linear layer on what it brings.

As V-JEPA (Bardes et al., TMLR 2024) and CAPI (Darcet et al., 2025) evaluate networks whose class token was not trained,
or that have none; with as few parameters as a single query needs (Psomas et al., 2025): a vector for each attention
head, beside the linear layer. Trained on augmented views over a grid of learning rates at once, one of which is chosen
on held-out training images, as `linear-grid` does.

Shapes: N items, L patch tokens, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from massl_bench.core.values import EvaluationData, Scores
from massl_bench.protocols.base import Protocol
from massl_bench.protocols.shared.augmented import HeadParams, Recipe, Representation
from massl_bench.protocols.shared.labels import check_not_empty
from massl_bench.protocols.shared.rate_grid import Rates, effective, run_grid
from massl_bench.protocols.shared.selection import check_leaves_some

_ROLES = ("train", "test")


class Params(HeadParams):
    """The parameters of the protocol."""

    lr: Rates
    lr_reference_batch: Annotated[int, Field(gt=0)] | Literal["none"]
    """Learning rates are multiplied by batch_size / this; `none`: taken as they are."""
    num_heads: int = Field(gt=0)
    """Attention heads of the query; the width of the tokens is a multiple of it."""
    validation_share: float = Field(gt=0, lt=1)
    """Of each class of the training images, held out where there is no validation split."""
    bootstrap_resamples: int = Field(gt=0)

    def factor(self, epoch: int, done: float) -> float:
        """Returns what learning rates are multiplied by: a cosine from step to step."""
        return 0.5 * (1 + math.cos(math.pi * (epoch + done) / self.epochs))


def metric_names(params: Params) -> list[str]:
    """Returns the metrics; their names do not depend on the parameters."""
    return ["top1", "top5", "mean_per_class"]


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for an empty split, or nothing to hold out."""
    check_not_empty(_ROLES, num_items)
    check_leaves_some(params.validation_share, num_items)


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> Scores:
    """Returns top-1, top-5 and mean per-class accuracy of the chosen probe; raises as `run_grid`."""
    recipe = Recipe(
        rates=effective(params.lr, params, params.lr_reference_batch),
        schedule=params.factor,
        lars_trust=None,
        representations=[Representation(name="patch tokens")],
        num_attention=params.num_heads,
    )
    share, resamples = params.validation_share, params.bootstrap_resamples
    return run_grid(data, params, recipe, params.lr, rng, validation_share=share, resamples=resamples)


PROTOCOL = Protocol(
    roles=_ROLES,
    params=Params,
    metric_names=metric_names,
    check_sizes=check_sizes,
    run=run,
    optional_roles=("val",),
    view_roles=("train", "test", "val"),
    needs_torch=True,
)
