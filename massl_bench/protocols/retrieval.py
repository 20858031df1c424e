"""Landmark retrieval on revisited Oxford and Paris (Radenović et al., CVPR 2018, section 5.1).

Cosine similarity, the whole database ranked. Easy: positives are the easy images, junk and hard ones are ignored;
medium: easy and hard / junk; hard: hard / junk and easy. Ignored images are removed from the ranking. A query without
positives leaves the mean and is counted.

Shapes: Q queries, N database rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from massl_bench.core.values import EvaluationData, Score
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

_ROLES = ("database", "queries")


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for no queries, or no database."""
    check_not_empty(_ROLES, num_items)


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> dict[str, Score]:
    """Returns mAP and mean precisions of the three settings, with bootstrap intervals over the queries.

    A setting in which no query has a positive is left out, and the scores of the others say so.

    Raises:
        RequestError: No ground truth, one of another number of queries, or one naming rows that are not there.
        CellError: No query has a positive; every image of the database has the same features.
    """
    check_sizes(params, {role: len(data.banks[role]) for role in _ROLES})
    truth = checked_truth(data)
    none = [np.zeros(len(named_rows(query)), dtype=np.int64) for query in truth]
    return scores_beside(none, truth, data, params, rng)


PROTOCOL = Protocol(
    roles=_ROLES,
    params=Params,
    metric_names=metric_names,
    check_sizes=check_sizes,
    run=run,
    named_by_truth="database",
    metrics_of_truth=metrics_of_truth,
)
