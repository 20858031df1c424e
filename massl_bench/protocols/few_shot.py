"""Few-shot classification: logistic regression on k images of each class, over several draws.

The solver of `linear` at a fixed strength, on features standardised on the drawn images. Each (k, run) is drawn
independently: the images of a smaller k need not be among those of a larger one.

Shapes: N items, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import Field

from massl_bench.core.errors import CellError
from massl_bench.core.strict import IncreasingNumbers, StrictModel
from massl_bench.core.values import EvaluationData, Score
from massl_bench.metrics.classification import rank_of_label
from massl_bench.protocols.base import Protocol
from massl_bench.protocols.shared.draws import (
    check_class_counts,
    check_shots,
    draw_up_to,
    given_draws,
    sampled_accuracies,
)
from massl_bench.protocols.shared.labels import check_not_empty, class_count, class_name, single_labels

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


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> dict[str, Score]:
    """Returns top-1 and mean per-class accuracy for every k: mean, standard deviation and value of each draw.

    Raises:
        RequestError: A split is empty or without labels; fewer than two classes; handed-in draws are incomplete.
        CellError: A class has fewer than k items, or none in a draw; all features of a draw are constant.
    """
    from massl_bench.learners.logistic import Stopping, fit

    check_sizes(params, {role: len(bank) for role, bank in data.banks.items()})
    train, test = data.banks["train"], data.banks["test"]
    labels, truth = single_labels("train", train), single_labels("test", test)
    num_classes = class_count(data)
    given = given_draws(data, params.shots, params.num_draws, _METRIC)
    if given is None:
        counts_C = np.bincount(labels, minlength=num_classes)
        check_class_counts(counts_C, params.shots, train.class_names, _METRIC)
    stopping = Stopping(tolerance=params.tolerance, max_iterations=params.max_iterations)
    details = {"draws": "sampled" if given is None else "handed in"}
    scores = {}
    for k in params.shots:
        right_SN = np.empty((params.num_draws, len(truth)), dtype=bool)
        for draw in range(params.num_draws):
            rows = draw_up_to(labels, k, rng) if given is None else given[k, draw]
            drawn = np.bincount(labels[rows], minlength=num_classes)
            if (drawn == 0).any():
                missing = class_name(int(drawn.argmin()), train.class_names)
                raise CellError(f"k{k}_run{draw}, which was handed in, holds no image of {missing}")
            classifier = fit(
                train.features[rows],
                labels[rows],
                num_classes,
                np.array([params.c]),
                stopping,
                device=data.backend.device,
            )
            right_SN[draw] = rank_of_label(classifier.scores(test.features), truth) == 0
        scores[f"top1@s{k}"], scores[f"mean_per_class@s{k}"] = sampled_accuracies(right_SN, truth, details)
    return scores


PROTOCOL = Protocol(
    roles=_ROLES,
    params=Params,
    metric_names=metric_names,
    check_sizes=check_sizes,
    run=run,
    needs_torch=True,
)
