"""Landmark retrieval among distractors (Radenović et al., CVPR 2018, section 5.1: revisited Oxford and Paris + R1M).

As `retrieval`, in a database to which the distractors belong. They are many, and read from their file piece by piece:
of them a ranking needs no more than how many come before each positive.

Shapes: Q queries, N database rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from massl_bench.core.values import EvaluationData, Score
from massl_bench.learners.neighbours import num_more_similar
from massl_bench.protocols.base import Protocol
from massl_bench.protocols.shared.labels import check_not_empty
from massl_bench.protocols.shared.landmarks import (
    Params,
    checked_truth,
    metric_names,
    metrics_of_truth,
    named_rows,
    scores_beside,
)

_ROLES = ("database", "distractors", "queries")


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for no queries, no database, or no distractors."""
    check_not_empty(_ROLES, num_items)


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> dict[str, Score]:
    """Returns the scores of `retrieval.run` among distractors; their number is in the details of each.

    Raises:
        RequestError: As `retrieval.run`; distractors of another dimension.
        CellError: As `retrieval.run`.
    """
    check_sizes(params, {role: len(data.banks[role]) for role in _ROLES})
    truth = checked_truth(data)
    database, distractors, queries = (data.banks[role].features for role in _ROLES)
    named = [named_rows(query) for query in truth]
    others = num_more_similar(queries, database, named, distractors)
    scores = scores_beside(others, truth, data, params, rng)
    number = {"distractors": len(distractors)}
    return {name: replace(score, details={**score.details, **number}) for name, score in scores.items()}


PROTOCOL = Protocol(
    roles=_ROLES,
    params=Params,
    metric_names=metric_names,
    check_sizes=check_sizes,
    run=run,
    named_by_truth="database",
    metrics_of_truth=metrics_of_truth,
)
