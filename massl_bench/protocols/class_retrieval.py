"""Retrieval of the same class: every test item is a query against the rest, by cosine similarity.

mAP at R and recall at k as in Musgrave et al., A Metric Learning Reality Check, ECCV 2020, section 3.2. An item that is
the only one of its class has nothing to find: it leaves the means and is counted.

Shapes: Q items, K neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.strict import IncreasingNumbers, StrictModel
from massl_bench.core.values import EvaluationData, Score, SearchBackend
from massl_bench.core.wording import asked
from massl_bench.learners.neighbours import cosine_neighbours
from massl_bench.metrics.ranking import average_precision_at_r, mean_score
from massl_bench.protocols.base import Protocol
from massl_bench.protocols.shared.checks import check_not_constant
from massl_bench.protocols.shared.labels import class_count, single_labels


class Params(StrictModel):
    """The parameters of the protocol."""

    recall_at: IncreasingNumbers
    bootstrap_resamples: int = Field(gt=0)


def metric_names(params: Params) -> list[str]:
    """Returns `map@r` and `recall@{k}`."""
    return ["map@r", *(f"recall@{k}" for k in params.recall_at)]


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` where there are not more items than the largest k of the recalls."""
    if num_items["test"] <= params.recall_at[-1]:
        raise RequestError(
            f"recall among the {params.recall_at[-1]} nearest asked of {num_items['test']} test "
            f"images; at least {params.recall_at[-1] + 1} are needed: raise {asked('limit', 'test=N')}"
        )


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> dict[str, Score]:
    """Returns mAP at R and recall at k, with bootstrap intervals over the queries, which search the same items.

    Raises:
        RequestError: Too few items; no labels; fewer than two classes.
        CellError: No class has two items; every item has the same features.
    """
    test = data.banks["test"]
    check_sizes(params, {"test": len(test)})
    labels = single_labels("test", test)
    class_count(data)
    others_Q = np.bincount(labels)[labels] - 1
    if not others_Q.any():
        raise CellError(
            "no class has two test images: there is nothing to find", remedy=f"raise {asked('limit', 'test=N')}"
        )
    check_not_constant("test images", test.features)
    depth = max(params.recall_at[-1], int(others_Q.max()))
    same_QK = labels[_others(test.features, depth, data.backend)] == labels[:, None]
    queries = np.flatnonzero(others_Q)
    left_out = len(labels) - len(queries)
    values = {"map@r": np.array([average_precision_at_r(same_QK[query, : others_Q[query]]) for query in queries])}
    for k in params.recall_at:
        values[f"recall@{k}"] = same_QK[queries, :k].any(axis=1).astype(np.float64)
    return {
        name: mean_score(column, left_out=left_out, resamples=params.bootstrap_resamples, rng=rng)
        for name, column in values.items()
    }


def _others(features_QD: NDArray[np.float32], k: int, backend: SearchBackend) -> NDArray[np.int64]:
    """Returns the k nearest other items of every item, int64 [Q, k]."""
    found_QK = cosine_neighbours(features_QD, features_QD, k + 1, backend=backend).indices_QK
    own_QK = found_QK == np.arange(len(found_QK))[:, None]
    # More than k duplicates can push an item out of its own list; then the last of the list goes.
    own_QK[~own_QK.any(axis=1), -1] = True
    others_QK: NDArray[np.int64] = found_QK[~own_QK].reshape(len(found_QK), k)
    return others_QK


PROTOCOL = Protocol(
    roles=("test",),
    params=Params,
    metric_names=metric_names,
    check_sizes=check_sizes,
    run=run,
)
