"""k-NN and linear classification of every block's feature: where in the network the information lies.

One pass of the images gives the features of all blocks, one after the other in the bank. Each is measured as the tasks
`knn` and `linear` measure the network's own, which is that of the last block: the same neighbours and votes, the same
held-out items and strengths. The curve over the blocks is a finding, and nothing is chosen by it: the headline is the
last block's.

Alain and Bengio (ICLR workshop 2017) read linear classifiers of every layer so.

Shapes: N training items, Q test items, D dimensions of one block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from massl_bench.core.arrays import stacked
from massl_bench.core.errors import RequestError
from massl_bench.core.values import EvaluationData, FeatureBank, Score, Scores
from massl_bench.core.wording import parameters
from massl_bench.learners.neighbours import cosine_neighbours
from massl_bench.metrics.classification import accuracy, classification_scores
from massl_bench.protocols.base import Protocol
from massl_bench.protocols.shared.answers import Answers
from massl_bench.protocols.shared.checks import check_not_constant
from massl_bench.protocols.shared.labels import check_every_class, check_not_empty, class_count, single_labels
from massl_bench.protocols.shared.selection import (
    HeldOut,
    HoldOutParams,
    Training,
    check_leaves_some,
    held_out,
    select_strength,
)
from massl_bench.protocols.shared.votes import ranks_by_vote

_ROLES = ("train", "test")
_READ = (*_ROLES, "val")


class Params(HoldOutParams):
    """The parameters of the protocol."""

    k: int = Field(ge=1)
    """Neighbours that vote."""
    temperature: float = Field(ge=0.0125)
    """As of `knn`."""


def metric_names(params: Params) -> list[str]:
    """Returns the metrics of the last block; `run` adds those of every block: `knn_top1@b1`, …"""
    return ["knn_top1", "linear_top1"]


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for an empty split, fewer training items than k, or nothing to hold out."""
    check_not_empty(_ROLES, num_items)
    check_leaves_some(params.validation_share, num_items)
    if params.k > num_items["train"]:
        raise RequestError(
            f"k = {params.k} asked, but the training split has {num_items['train']} images: "
            f"{parameters(k=str(num_items['train']))}"
        )


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> Scores:
    """Returns both top-1 accuracies of the last block and of every block, with bootstrap intervals.

    Raises:
        RequestError: The features are not of several blocks; a split is empty or without labels; fewer than two
            classes.
        CellError: A class has no training item; every training item has the same features in a block.
    """
    from massl_bench.learners.logistic import Watched

    check_sizes(params, {role: len(bank) for role, bank in data.banks.items()})
    banks = {role: bank for role, bank in data.banks.items() if role in _READ}
    labels = {role: single_labels(role, bank) for role, bank in banks.items()}
    train = banks["train"]
    check_every_class(labels["train"], class_count(data), train.class_names)
    if not train.parts:
        raise RequestError(
            "the features of every block are needed, and these are of one",
            remedy="extract(encoder, dataset, task='layers') gives them, as does a run on images",
        )
    held = held_out(labels["train"], labels.get("val"), train.validation_from, params, rng)
    watched = Watched(total=len(train.parts) * (len(held.folds) * params.num_c + 1), report=data.report)
    curves: dict[str, Score] = {}
    for place, part in enumerate(train.parts):
        features = {role: _columns(bank, place) for role, bank in banks.items()}
        check_not_constant(f"training images (block {part.name})", features["train"])
        training = Training(
            features_ND=stacked([features[role] for role in ("train", "val") if role in features]),
            targets=held.targets,
            num_classes=class_count(data),
            params=params,
            device=data.backend.device,
            watched=watched,
        )
        found = {
            "knn_top1": _knn(features, labels, data, params, rng),
            "linear_top1": _linear(training, held, features["test"], labels["test"], rng),
        }
        del features, training
        # What each item got is kept of the last block: models are compared by that.
        curves |= {f"{name}@{part.name}": replace(each, items=None, predicted=None) for name, each in found.items()}
    return Scores({**found, **curves})


def _columns(bank: FeatureBank, place: int) -> NDArray[np.float32]:
    start = sum(part.width for part in bank.parts[:place])
    return np.ascontiguousarray(bank.features[:, start : start + bank.parts[place].width])


def _knn(
    features: Mapping[str, NDArray[np.float32]],
    labels: Mapping[str, NDArray[np.int64]],
    data: EvaluationData,
    params: Params,
    rng: np.random.Generator,
) -> Score:
    neighbours = cosine_neighbours(
        features["test"], features["train"], params.k, boundaries=(params.k,), backend=data.backend
    )
    answers = Answers(labels=labels["test"], num_classes=class_count(data), test=None)
    rank_Q1, _, predicted_Q1 = ranks_by_vote(neighbours, labels["train"], answers, (params.k,), params.temperature)
    top1, _ = accuracy(rank_Q1[:, 0] == 0, labels["test"], resamples=params.bootstrap_resamples, rng=rng)
    return replace(top1, predicted=predicted_Q1[:, 0])


def _linear(
    training: Training,
    held: HeldOut,
    test_QD: NDArray[np.float32],
    labels_Q: NDArray[np.int64],
    rng: np.random.Generator,
) -> Score:
    selection = select_strength(training, held.folds)
    final = training.fit(np.array([selection.strength]))
    top1 = classification_scores(final.scores(test_QD), labels_Q, training.params.bootstrap_resamples, rng)["top1"]
    return replace(
        top1,
        details={
            "C": selection.strength,
            "selection_split": held.split,
            "selection_value": selection.value,
            "converged": str(bool(final.converged_P[0])).lower(),
        },
    )


PROTOCOL = Protocol(
    roles=_ROLES,
    params=Params,
    metric_names=metric_names,
    check_sizes=check_sizes,
    run=run,
    optional_roles=("val",),
    needs_torch=True,
)
