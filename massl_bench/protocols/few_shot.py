"""Few-shot classification: logistic regression on k images of each class, over several draws.

The solver of `linear` at a fixed strength, on features standardised on the drawn images. Each (k, run) is drawn
independently: the images of a smaller k need not be among those of a larger one.

Shapes: N items, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from massl_bench.core.errors import CellError
from massl_bench.core.memory import Extent, Memory
from massl_bench.core.progress import Progress
from massl_bench.core.strict import IncreasingNumbers, StrictModel
from massl_bench.core.values import EvaluationData, Score
from massl_bench.protocols.base import Protocol
from massl_bench.protocols.shared.answers import Answers
from massl_bench.protocols.shared.draws import check_class_counts, check_shots, draw_up_to, given_draws
from massl_bench.protocols.shared.fitting import memory_of_fits
from massl_bench.protocols.shared.labels import check_not_empty, class_count, class_name, single_labels

if TYPE_CHECKING:  # torch: not for reading specs
    from massl_bench.learners.logistic import Classifiers

_ROLES = ("train", "test")

_METRIC = "top1@s"


class Params(StrictModel):
    """The parameters of the protocol."""

    shots: IncreasingNumbers
    """Images of each class."""
    num_draws: int = Field(gt=0)
    c: float = Field(gt=0)
    """Strength of the logistic regression, in scikit-learn's sense."""
    tolerance: float = Field(gt=0)
    max_iterations: int = Field(gt=0)


def metric_names(params: Params) -> list[str]:
    """Returns `top1@s{k}` and `mean_per_class@s{k}` for every number of shots."""
    return [f"{metric}@s{k}" for k in params.shots for metric in ("top1", "mean_per_class")]


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for an empty split, or fewer training items than the largest k."""
    check_not_empty(_ROLES, num_items)
    check_shots(params.shots, num_items["train"], _METRIC)


@dataclass(frozen=True, kw_only=True, eq=False)
class Heads:
    """The classifiers of all draws."""

    of_draw: Mapping[tuple[int, int], Classifiers]
    """By (k, draw)."""
    draws: str
    """Whether they were sampled."""
    num_classes: int


def fit(data: EvaluationData, params: Params, rng: np.random.Generator) -> Heads:
    """Returns a classifier of each draw of training items; raises as `run` does."""
    from massl_bench.learners import logistic

    check_sizes(params, {role: len(bank) for role, bank in data.banks.items()})
    train = data.banks["train"]
    labels, num_classes = single_labels("train", train), class_count(data)
    Answers.of(data, num_classes)  # before the work
    given = given_draws(data, params.shots, params.num_draws, _METRIC)
    if given is None:
        counts_C = np.bincount(labels, minlength=num_classes)
        check_class_counts(counts_C, params.shots, train.class_names, _METRIC)
    stopping = logistic.Stopping(tolerance=params.tolerance, max_iterations=params.max_iterations)
    of_draw: dict[tuple[int, int], Classifiers] = {}
    count = len(params.shots) * params.num_draws
    for k in params.shots:
        for draw in range(params.num_draws):
            data.report(lambda: Progress(done=len(of_draw), total=count, unit="draws fitted"))
            rows = draw_up_to(labels, k, rng) if given is None else given[k, draw]
            drawn = np.bincount(labels[rows], minlength=num_classes)
            if (drawn == 0).any():
                missing = class_name(int(drawn.argmin()), train.class_names)
                raise CellError(f"k{k}_run{draw}, which was handed in, holds no image of {missing}")
            strengths = np.array([params.c])
            of_draw[k, draw] = logistic.fit(
                train.features[rows], labels[rows], num_classes, strengths, stopping, device=data.backend.device
            )
    return Heads(of_draw=of_draw, draws="sampled" if given is None else "handed in", num_classes=num_classes)


def test(heads: Heads, data: EvaluationData, params: Params, rng: np.random.Generator) -> dict[str, Score]:
    """Returns the scores of the classifiers on the test split; raises as `run` does."""
    answers, bank = Answers.of(data, heads.num_classes), data.banks["test"]
    scores: dict[str, Score] = {}
    for number, k in enumerate(params.shots):
        right_SN = np.empty((params.num_draws, len(bank)), dtype=bool)
        for draw in range(params.num_draws):
            done = number * params.num_draws + draw
            data.report(partial(Progress, done=done, total=len(heads.of_draw), unit="draws tested"))
            rank_N, _ = answers.ranks(heads.of_draw[k, draw].scores, bank.features)
            right_SN[draw] = rank_N == 0
        found = answers.sampled(right_SN, {"draws": heads.draws})
        scores[f"top1@s{k}"] = found.pop("accuracy")
        scores |= {f"{name}@s{k}": score for name, score in found.items()}
    return scores


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> dict[str, Score]:
    """Returns top-1 and mean per-class accuracy for every k: mean, standard deviation and value of each draw.

    Raises:
        RequestError: A split is empty or without labels; fewer than two classes; handed-in draws are incomplete.
        CellError: A class has fewer than k items, or none in a draw; all features of a draw are constant.
    """
    return test(fit(data, params, rng), data, params, rng)


def memory(params: Params, extent: Extent) -> Memory:
    """Returns what the largest draw holds while it is fitted, the classifiers of all draws, and their test."""
    drawn = min(params.shots[-1] * extent.num_classes, extent.num_items["train"])
    rank = min(drawn, extent.dim)
    classifier = 4 * (rank * extent.dim + (rank + 1) * extent.num_classes)
    kept = len(params.shots) * params.num_draws * classifier + 4 * drawn * extent.dim
    right = params.num_draws * extent.num_items["test"]
    return memory_of_fits(extent, num_rows=drawn, num_strengths=1, kept=kept + right)


PROTOCOL = Protocol(
    roles=_ROLES,
    params=Params,
    metric_names=metric_names,
    check_sizes=check_sizes,
    run=run,
    tests_heads=True,
    fit=fit,
    test=test,
    needs_torch=True,
    memory=memory,
)
