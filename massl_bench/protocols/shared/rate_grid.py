"""Linear layers over a grid of learning rates and representations, trained at once; one of them is chosen, and tested.

All see the same views in one pass over the data. The choice is made on training images that no layer has seen, under
the plain preprocessing: the publisher's validation images where there are some, else a share of each class. Of layers
that are equally good there, the one of the least loss; of equal losses the first (the smaller learning rate).

Shapes: N items, n items that are held out, R learning rates, G representations, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator
from scipy.special import logsumexp

from massl_bench.core.strict import Listed, Some
from massl_bench.core.values import EvaluationData, Scores, ViewBatch
from massl_bench.metrics.classification import classification_scores, rank_of_label
from massl_bench.protocols.shared.augmented import HeadParams, Recipe, draw_seeds, not_finite, train, training_views
from massl_bench.protocols.shared.labels import check_every_class, class_count, single_labels
from massl_bench.protocols.shared.selection import hold_out

if TYPE_CHECKING:
    from massl_bench.learners.linear_head import Heads

_ROWS = 4096
"""Items of a bank that are classified at a time."""


def _increasing(rates: tuple[float, ...]) -> tuple[float, ...]:
    if rates[0] <= 0 or any(low >= high for low, high in pairwise(rates)):
        raise ValueError(f"expected increasing numbers above 0, got {list(rates)}")
    return rates


Rates = Annotated[Listed[Some[float]], AfterValidator(_increasing)]
"""Learning rates, each larger than the one before."""


def effective(rates: Iterable[float], params: HeadParams, reference_batch: int | Literal["none"]) -> list[float]:
    """Returns learning rates for the batch size at hand, which are given for another."""
    return [rate if reference_batch == "none" else rate * params.batch_size / reference_batch for rate in rates]


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """On what a layer is chosen, and what is left to train on."""

    train_rows: NDArray[np.int64]
    held_rows: NDArray[np.int64] | None
    """Training items, to be seen plain; None where another split is chosen on."""
    role: str | None
    """The split that is chosen on, in place of training items."""
    split: str
    """The same in words."""


def held_out_choice(data: EvaluationData, share: float, rng: np.random.Generator) -> Choice:
    """Returns the choice on validation images, or on training images that are held out."""
    views = training_views(data)
    count = len(views.labels)
    if "val" in data.banks or "val" in data.streams:
        return Choice(train_rows=np.arange(count), held_rows=None, role="val", split="val")
    if views.validation_from is not None:
        fitted, held = np.split(np.arange(count), [views.validation_from])
        return Choice(train_rows=fitted, held_rows=held, role=None, split=f"val, the last {len(held)} of {count} train")
    held = hold_out(views.labels, share, rng)
    split = f"{len(held)} of {count} train, of each class at random"
    return Choice(train_rows=np.setdiff1d(np.arange(count), held), held_rows=held, role=None, split=split)


def run_grid(
    data: EvaluationData,
    params: HeadParams,
    recipe: Recipe,
    rates: Sequence[float],
    rng: np.random.Generator,
    *,
    validation_share: float | None,
    resamples: int,
) -> Scores:
    """Returns top-1, top-5 and mean per-class accuracy of the layer that is chosen, with bootstrap intervals.

    Args:
        data: has views, and a test split as a bank or as a stream.
        params: of the layers.
        recipe: the learning rates as they are used, and the representations.
        rates: the same learning rates as they were given.
        rng: draws seeds, then what is held out, then the intervals.
        validation_share: of the training images, held out where there is no validation split; None: the choice is made
            on the test images, after training on all training images, as published.
        resamples: behind the intervals.

    Raises:
        RequestError: A split is empty or without labels; fewer than two classes; features were handed in.
        CellError: A class has no training item; an image is damaged; no layer's loss is finite.
    """
    views, truth = training_views(data), _labels(data, "test")
    seeds = draw_seeds(rng)
    if validation_share is None:
        choice = Choice(train_rows=np.arange(len(views.labels)), held_rows=None, role="test", split="test")
    else:
        choice = held_out_choice(data, validation_share, rng)
    check_every_class(views.labels[choice.train_rows], class_count(data), views.class_names)
    *_, heads = train(data, choice.train_rows, params, seeds, recipe)
    accuracy_GR, loss_GR = _measured(data, choice, heads, recipe)
    group, place = _best(accuracy_GR, loss_GR)
    chosen = recipe.representations[group]
    scores_NK = np.concatenate(
        [heads[group].scores(chosen.of(batch.features), place) for batch in _batches(data, "test")]
    )
    details: dict[str, float | int | str] = {
        "lr": rates[place],
        "effective_lr": recipe.rates[place],
        "representation": chosen.name,
        "parameters": heads[group].num_parameters,
        "selection_split": choice.split,
        "selection_value": float(accuracy_GR[group, place]),
    }
    for each, value_R in zip(recipe.representations, accuracy_GR, strict=True):
        if len(accuracy_GR) > 1 and np.isfinite(value_R).any():
            best = int(np.nanargmax(value_R))
            details[f"{each.name}, there"] = f"{100 * value_R[best]:.2f} at {rates[best]:g}"
    found = classification_scores(scores_NK, truth, resamples, rng)
    curve = {rate: float(value) for rate, value in zip(rates, accuracy_GR[group], strict=True) if np.isfinite(value)}
    notes = _notes(accuracy_GR, recipe, rates, group, place)
    if validation_share is None:
        notes = ("the layer was chosen on the test images, as published: the value is larger than a fair one", *notes)
    return Scores(
        {name: replace(score, details=details) for name, score in found.items()}, notes=notes, selection=curve
    )


def _measured(
    data: EvaluationData, choice: Choice, heads: Sequence[Heads], recipe: Recipe
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns accuracy and mean loss on what is chosen on, [G, R] each; NaN for layers whose loss was not finite."""
    if choice.role is not None:
        labels_N, batches = _labels(data, choice.role), _batches(data, choice.role)
    else:
        assert choice.held_rows is not None
        views = training_views(data)
        labels_N, batches = views.labels.astype(np.int64), views.plain(choice.held_rows)
    right_GR, loss_GR = (np.zeros((len(heads), len(recipe.rates))) for _ in range(2))
    count = 0
    for batch in batches:
        truth_B = labels_N[batch.rows]
        count += len(truth_B)
        for group, (representation, each) in enumerate(zip(recipe.representations, heads, strict=True)):
            features_BD = representation.of(batch.features)
            for place in np.flatnonzero(each.finite_P):
                scores_BK = each.scores(features_BD, int(place))
                if not np.isfinite(scores_BK).all():  # its last step was one too far
                    each.finite_P[place] = False
                    continue
                right_GR[group, place] += (rank_of_label(scores_BK, truth_B) == 0).sum()
                own_B = np.take_along_axis(scores_BK, truth_B[:, None], axis=1)[:, 0]
                loss_GR[group, place] += (logsumexp(scores_BK, axis=1) - own_B).sum()
    finite_GR = np.stack([each.finite_P for each in heads])
    if not finite_GR.any():
        raise not_finite("no layer's scores are finite", recipe.rates)
    return np.where(finite_GR, right_GR / count, np.nan), np.where(finite_GR, loss_GR / count, np.nan)


def _labels(data: EvaluationData, role: str) -> NDArray[np.int64]:
    if role in data.banks:
        return single_labels(role, data.banks[role])
    labels_N: NDArray[np.int64] = data.streams[role].labels.astype(np.int64)
    return labels_N


def _batches(data: EvaluationData, role: str) -> Iterable[ViewBatch]:
    """Yields the items of a split in their order, without augmentation: of its bank, or through the encoder."""
    if role not in data.banks:
        yield from data.streams[role].plain(np.arange(len(data.streams[role].labels)))
        return
    features_ND = data.banks[role].features
    rows_N = np.arange(len(features_ND))
    for start in range(0, len(rows_N), _ROWS):
        yield ViewBatch(features=features_ND[start : start + _ROWS], rows=rows_N[start : start + _ROWS])


def _best(accuracy_GR: NDArray[np.float64], loss_GR: NDArray[np.float64]) -> tuple[int, int]:
    tied_GR = accuracy_GR == np.nanmax(accuracy_GR)
    group, place = np.unravel_index(np.where(tied_GR, loss_GR, np.inf).argmin(), loss_GR.shape)
    return int(group), int(place)


def _notes(
    accuracy_GR: NDArray[np.float64], recipe: Recipe, rates: Sequence[float], group: int, place: int
) -> tuple[str, ...]:
    """Returns what a reader should know: layers that failed, and a choice at the end of the grid."""
    notes = []
    lost: Mapping[str, list[str]] = {
        each.name: [f"{rate:g}" for rate, value in zip(rates, value_R, strict=True) if np.isnan(value)]
        for each, value_R in zip(recipe.representations, accuracy_GR, strict=True)
    }
    told = [f"{', '.join(failed)} ({name})" for name, failed in lost.items() if failed]
    if told:
        notes.append(f"the loss was not finite, and the layer not chosen from, at learning rates {'; '.join(told)}")
    if place in (0, len(rates) - 1) and len(rates) > 1:
        end = "smallest" if place == 0 else "largest"
        notes.append(f"the learning rate that was chosen, {rates[place]:g}, is the {end} of the grid")
    return tuple(notes)
