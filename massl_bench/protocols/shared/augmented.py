"""Linear layers that are trained on augmented views, the frozen backbone in front of them.

Shapes: N items, n items that are seen, D features, R learning rates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.settings import Augmentation
from massl_bench.core.values import EvaluationData, Part, TrainingViews, ViewBatch, ViewPlan
from massl_bench.core.wording import asked, parameters

if TYPE_CHECKING:
    from massl_bench.learners.linear_head import Heads, HeadTraining, Schedule


class HeadParams(Augmentation):
    """What every layer that is trained on augmented views needs, beside its learning rate."""

    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    init_std: float = Field(ge=0)
    """Of the normal weights at the start; the biases are 0."""


@dataclass(frozen=True, kw_only=True)
class Representation:
    """What a layer sees of the features: some of their parts, one after the other."""

    name: str
    columns: tuple[slice, ...] = (slice(None),)

    def of(self, features_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the columns of features [N, D], or tokens [N, L, D] as they are."""
        if features_ND.ndim == 3:
            return features_ND
        if len(self.columns) == 1:
            return features_ND[:, self.columns[0]]
        return np.concatenate([features_ND[:, each] for each in self.columns], axis=1)


OWN = Representation(name="own")
"""All that there is."""


def token_representations(parts: Sequence[Part], num_blocks: Sequence[int]) -> list[Representation]:
    """Returns the representations of tokens: class tokens of the last blocks, each with and without the mean patch.

    Args:
        parts: class tokens of blocks, the last one last, and behind them the mean of the patch tokens; none for a
            network without tokens, whose own feature is the only one.
        num_blocks: of how many blocks; of a network that has fewer, all.
    """
    if not parts:
        return [OWN]
    ends = np.cumsum([part.width for part in parts]).tolist()
    *starts, mean = ends[:-1]
    starts = [0, *starts]
    found = []
    for count in dict.fromkeys(min(count, len(starts)) for count in num_blocks):
        tokens = slice(starts[-count], mean)
        found.append(Representation(name=f"last {count}", columns=(tokens,)))
        found.append(Representation(name=f"last {count} and mean patch", columns=(tokens, slice(mean, None))))
    return found


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How layers are trained, beyond `HeadParams`."""

    rates: Sequence[float]
    """A layer for each."""
    schedule: Schedule
    lars_trust: float | None
    """Trust coefficient of LARS; None for SGD."""
    representations: Sequence[Representation] = (OWN,)
    """The layers of every one are trained at once."""
    num_attention: int | None = None
    """Of layers that read tokens: how many attention heads their query has."""


Seeds = tuple[int, int]
"""Of the views, and of the layers' weights."""


def draw_seeds(rng: np.random.Generator) -> Seeds:
    """Returns the seeds of a training."""
    views, heads = (int(seed) for seed in rng.integers(2**62, size=2))
    return views, heads


def train(
    data: EvaluationData, rows_n: NDArray[np.int64], params: HeadParams, seeds: Seeds, recipe: Recipe
) -> Iterator[list[Heads]]:
    """Yields the layers, by representation, after each epoch of training on augmented views.

    Args:
        data: has views.
        rows_n: the training items that are seen, int64 [n].
        params: of the layers and of the augmentation.
        seeds: of views and weights.
        recipe: the learning rates, and what the layers see.

    Raises:
        CellError: An image is damaged; the loss of no layer is finite any more.
    """
    from massl_bench.learners.linear_head import HeadTraining

    assert data.views is not None
    assert data.num_classes is not None
    training = HeadTraining(
        rates=recipe.rates,
        momentum=params.momentum,
        weight_decay=params.weight_decay,
        lars_trust=recipe.lars_trust,
        init_std=params.init_std,
        seed=seeds[1],
        device=data.backend.device,
    )
    heads: list[Heads] = []
    plan = ViewPlan(
        rows=rows_n,
        num_epochs=params.epochs,
        batch_size=params.batch_size,
        augmentation=params,
        seed=seeds[0],
    )
    labels_N, num_steps = data.views.labels.astype(np.int64), math.ceil(len(rows_n) / params.batch_size)
    for epoch, batches in enumerate(data.views.epochs(plan)):
        for number, batch in enumerate(batches):
            heads = heads or _heads(batch, data.num_classes, training, recipe)
            factor = recipe.schedule(epoch, number / num_steps)
            for representation, each in zip(recipe.representations, heads, strict=True):
                each.step(representation.of(batch.features), labels_N[batch.rows], factor)
            if not any(each.finite_P.any() for each in heads):
                rates = [rate * factor for rate in recipe.rates]
                raise not_finite(f"the loss is not finite in epoch {epoch + 1} of {params.epochs}", rates)
        yield heads


def not_finite(what: str, rates: Sequence[float]) -> CellError:
    """Returns the error for layers that diverge at learning rates."""
    return CellError(
        f"the linear classifier diverges: {what}, at a learning rate of {', '.join(f'{rate:g}' for rate in rates)}",
        remedy=f"lower it with {parameters(lr='…')}",
    )


def finite_scores(heads: Heads, features_ND: NDArray[np.float32], rate: float) -> NDArray[np.float32]:
    """Returns the logits of a single layer; raises `CellError` where its last step has made them infinite."""
    scores_NK = heads.scores(features_ND)
    if not np.isfinite(scores_NK).all():  # no class would come before any other: each item would count as right
        raise not_finite("its scores are not finite", [rate])
    return scores_NK


def _heads(batch: ViewBatch, num_classes: int, training: HeadTraining, recipe: Recipe) -> list[Heads]:
    """Returns the layers of every representation; how wide these are is seen in the first batch."""
    from massl_bench.learners.attentive_head import AttentiveHeads
    from massl_bench.learners.linear_head import LinearHeads

    widths = [each.of(batch.features[:1]).shape[-1] for each in recipe.representations]
    if recipe.num_attention is None:
        return [LinearHeads(width, num_classes, training) for width in widths]
    if widths[0] % recipe.num_attention:
        raise RequestError(
            f"num_heads = {recipe.num_attention} divide the channels of the tokens among them, which are {widths[0]}",
            remedy=f"take a divisor: {parameters(num_heads=1)}",
        )
    return [AttentiveHeads(width, recipe.num_attention, num_classes, training) for width in widths]


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
