"""Weighted k-nearest-neighbour classification (DINO, ICCV 2021, section 4.1; as run by MaSSL and CARP).

Features are set to unit norm; each of the k most similar training items (cosine) votes for its class with
exp(similarity / temperature); the class of the largest sum wins.

Among k neighbours fewer classes than five may have a vote. Those without one come behind, by their number, as in the
published script, so that `top5@k` counts some of them as hits: how many, the notes say. For k below 5 it would be about
little else, and is not reported.

Where the test split shows some of the training split's classes only, the others' votes are left out, and the neighbours
stay those of the whole training split.

Shapes: Q test items, q of them at a time, N training items, D dimensions, K neighbours, C classes, A of them that
compete.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from massl_bench.core.errors import RequestError
from massl_bench.core.strict import IncreasingNumbers, StrictModel
from massl_bench.core.values import EvaluationData, Score, Scores
from massl_bench.core.wording import parameters
from massl_bench.learners.neighbours import nearest, where_searched
from massl_bench.protocols.base import Protocol
from massl_bench.protocols.shared.answers import Answers
from massl_bench.protocols.shared.checks import check_not_constant
from massl_bench.protocols.shared.labels import check_every_class, check_not_empty, class_count, single_labels
from massl_bench.protocols.shared.votes import ranks_by_vote

_ROLES = ("train", "test")

_TOP = 5
"""Classes that `top5@k` looks at."""

_QUERIES_TOGETHER = 1 << 18
"""Test items whose neighbours are held at a time: those of ImageNet-C would be 9 GB."""


class Params(StrictModel):
    """The parameters of the protocol."""

    k: IncreasingNumbers
    """Numbers of neighbours; one search at the largest serves all."""
    temperature: float = Field(ge=0.0125)
    """Divides the cosine similarity before the exponential; below 1/80 the float32 exponential would overflow."""
    bootstrap_resamples: int = Field(gt=0)


def metric_names(params: Params) -> list[str]:
    """Returns `top1@k`, `top5@k` (for k from 5) and `mean_per_class@k` for every k."""
    return [f"{metric}@{k}" for k in params.k for metric in ("top1", "top5", "mean_per_class") if _exists(metric, k)]


def _exists(metric: str, k: int) -> bool:
    return metric != "top5" or k >= _TOP


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for an empty split, or fewer training items than the largest k."""
    check_not_empty(_ROLES, num_items)
    found = num_items["train"]
    if params.k[-1] > found:
        fitting = [k for k in params.k if k <= found] or [found]
        raise RequestError(
            f"k = {params.k[-1]} asked, but the training split has {found} images; allowed up to {found}: "
            f"{parameters(k=','.join(map(str, fitting)), headline=f'top1@{fitting[-1]}')}"
        )


def fitted(params: Params, num_items: Mapping[str, int]) -> Params:
    """Returns the parameters without the numbers of neighbours that the training split has not; at least one stays."""
    fitting = tuple(k for k in params.k if k <= num_items["train"])
    return params.model_copy(update={"k": fitting}) if fitting else params


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> Scores:
    """Returns top-1, top-5 (over all classes) and mean per-class accuracy for every k, with bootstrap intervals.

    Raises:
        RequestError: A split is empty or without labels, k exceeds the number of training items, or there are fewer
            than two classes.
        CellError: A class has no training item; every training item has the same features.
    """
    train, test = data.banks["train"], data.banks["test"]
    check_sizes(params, {"train": len(train), "test": len(test)})
    train_labels, num_classes = single_labels("train", train), class_count(data)
    answers = Answers.of(data, num_classes)
    check_every_class(train_labels, num_classes, train.class_names)
    check_not_constant("training images", train.features)
    queries_QD, database_ND = (where_searched(bank, data.backend) for bank in (test, train))
    parts = []
    for start in range(0, len(test), _QUERIES_TOGETHER):
        queries_qD = queries_QD[start : start + _QUERIES_TOGETHER]
        found = nearest(queries_qD, database_ND, params.k[-1], boundaries=params.k, backend=data.backend)
        parts.append(ranks_by_vote(found, train_labels, answers, params.k, params.temperature, first=start))
    rank_Qk, voted_Qk, predicted_Qk = (np.concatenate(each) for each in zip(*parts, strict=True))

    scores: dict[str, Score] = {}
    for k, rank_Q, predicted_Q in zip(params.k, rank_Qk.T, predicted_Qk.T, strict=True):
        for top in (1, _TOP):
            # Drawn for every k, so that the intervals of one do not depend on the others.
            measured = answers.scores(rank_Q < min(top, k), resamples=params.bootstrap_resamples, rng=rng)
            score = measured.pop("accuracy")
            scores[f"top{top}@{k}"] = answers.with_predicted(score, predicted_Q) if top == 1 else score
            scores |= {f"{name}@{k}": score for name, score in measured.items() if top == 1}
    usual = [name for name in metric_names(params) if name in scores]
    unusual = [name for name in scores if name.startswith("mce")]
    return Scores({name: scores[name] for name in (*usual, *unusual)}, notes=_notes(rank_Qk, voted_Qk, params))


def _notes(rank_Qk: NDArray[np.int64], voted_Qk: NDArray[np.bool_], params: Params) -> tuple[str, ...]:
    counts = ((rank_Qk < _TOP) & ~voted_Qk).sum(axis=0)
    found = [f"{count} of top5@{k}" for k, count in zip(params.k, counts, strict=True) if count and k >= _TOP]
    text = f"hits of classes without a vote, by class number as in the published script: {', '.join(found)}"
    return (text,) if found else ()


PROTOCOL = Protocol(
    roles=_ROLES,
    params=Params,
    metric_names=metric_names,
    check_sizes=check_sizes,
    run=run,
    fitted=fitted,
    tests_heads=True,
)
