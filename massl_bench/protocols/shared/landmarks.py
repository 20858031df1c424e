"""Rankings of landmarks, and who is a positive in them: what `retrieval` and `retrieval_distractors` share.

Shapes: Q queries, N database rows, R rows that the ground truth of a query names.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from massl_bench.core.devices import available_cores
from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.strict import IncreasingNumbers, StrictModel
from massl_bench.core.values import CopyTruth, EvaluationData, QueryTruth, Score
from massl_bench.learners.cosines import cosine_similarities
from massl_bench.metrics.ranking import mean_score, precision_at, ranks_of, trapezoid_average_precision
from massl_bench.protocols.shared.checks import check_not_constant

SETTINGS = ("easy", "medium", "hard")


class Params(StrictModel):
    """The parameters of the protocol."""

    precision_at: IncreasingNumbers
    """Ranks k of the mean precisions."""
    bootstrap_resamples: int = Field(gt=0)


def metric_names(params: Params) -> list[str]:
    """Returns `map_{setting}` and `mp@{k}_{setting}`."""
    return [
        name for setting in SETTINGS for name in (f"map_{setting}", *(f"mp@{k}_{setting}" for k in params.precision_at))
    ]


def metrics_of_truth(params: Params, truth: Sequence[QueryTruth]) -> list[str]:
    """Returns those of `metric_names` whose setting has a query with a positive, the mAPs of the settings first."""
    there = settings_with_positives(truth)
    names = [name for name in metric_names(params) if name.rpartition("_")[2] in there]
    return sorted(names, key=lambda name: not name.startswith("map_"))


def checked_truth(data: EvaluationData) -> Sequence[QueryTruth]:
    """Returns the ground truth where it fits the features, which differ; raises as `retrieval.run`."""
    database, queries = data.banks["database"], data.banks["queries"]
    truth = check_truth(data.ground_truth, len(queries), len(database))
    check_not_constant("database images", database.features)
    return truth


def scores_beside(
    others: Sequence[NDArray[np.int64]],
    truth: Sequence[QueryTruth],
    data: EvaluationData,
    params: Params,
    rng: np.random.Generator,
) -> dict[str, Score]:
    """Returns the scores of `retrieval.run` in a database that has further rows, none of them a positive.

    Args:
        others: for each query, how many of the further rows come before each of its `named_rows`, int64 [R].
        truth: what the queries should find.
        data: the database and the queries.
        params: of the protocol.
        rng: draws the resamples.

    Raises:
        CellError: No query has a positive.
    """
    database, queries = data.banks["database"], data.banks["queries"]
    settings = settings_with_positives(truth)
    if not settings:
        raise CellError(f"none of the {len(truth)} queries has a positive")
    left_out: dict[str, str] = {}
    if len(settings) < len(SETTINGS):
        left_out["settings_left_out"] = ", ".join(setting for setting in SETTINGS if setting not in settings)
    ranked = _ranked(truth, queries.features, database.features, others)
    scores = {}
    for setting in settings:
        precisions, aps = [], []
        for each, query in zip(ranked, truth, strict=True):
            ranks = each.ranks_without(*roles_of_rows(query, setting))
            if len(ranks):
                aps.append(trapezoid_average_precision(ranks))
                precisions.append([precision_at(ranks, k) for k in params.precision_at])
        columns = {f"map_{setting}": np.array(aps)}
        for k, values in zip(params.precision_at, np.array(precisions).T, strict=True):
            columns[f"mp@{k}_{setting}"] = values
        for name, values_Q in columns.items():
            score = mean_score(values_Q, left_out=len(truth) - len(aps), resamples=params.bootstrap_resamples, rng=rng)
            scores[name] = replace(score, details={**score.details, **left_out})
    return scores


def check_truth(
    truth: Sequence[QueryTruth] | CopyTruth | None, num_queries: int, num_rows: int
) -> Sequence[QueryTruth]:
    """Returns the ground truth; raises `RequestError` where it does not fit the queries and the database."""
    if truth is None or isinstance(truth, CopyTruth):
        raise RequestError("needs a ground truth: the easy, hard and junk rows of each query")
    if len(truth) != num_queries:
        raise RequestError(f"the ground truth is of {len(truth)} queries, and there are {num_queries}")
    for index, query in enumerate(truth):
        for name in ("easy", "hard", "junk"):
            rows = getattr(query, name)
            if len(rows) and (rows.min() < 0 or rows.max() >= num_rows):
                wrong = rows[(rows < 0) | (rows >= num_rows)][0]
                raise RequestError(
                    f"ground truth of query {index}: {name} names image {wrong}, which is not there; "
                    f"allowed: 0 to {num_rows - 1}"
                )
    return truth


def settings_with_positives(truth: Sequence[QueryTruth]) -> list[str]:
    """Returns the settings in which at least one query has a positive."""
    return [setting for setting in SETTINGS if any(len(roles_of_rows(query, setting)[0]) for query in truth)]


def roles_of_rows(query: QueryTruth, setting: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns (positives, ignored) of a query."""
    match setting:
        case "easy":
            return query.easy, np.concatenate([query.junk, query.hard])
        case "medium":
            return np.concatenate([query.easy, query.hard]), query.junk
        case _:
            return query.hard, np.concatenate([query.junk, query.easy])


def named_rows(query: QueryTruth) -> NDArray[np.int64]:
    """Returns the different rows that the ground truth of a query names, in order, int64 [R]."""
    return np.unique(np.concatenate([query.easy, query.hard, query.junk]))


@dataclass(frozen=True, eq=False)
class _Ranked:
    """The rows that the ground truth of a query names, and what comes before each of them."""

    rows_R: NDArray[np.int64]
    """Increasing."""
    ranks_R: NDArray[np.int64]
    """Rows of the database before each, all different."""
    others_R: NDArray[np.int64]
    """Rows beside the database before each."""

    def ranks_without(self, positives: NDArray[np.int64], ignored: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the increasing ranks of the positives in a ranking from which the ignored rows were removed."""
        places = np.searchsorted(self.rows_R, np.setdiff1d(positives, ignored))
        places = places[np.argsort(self.ranks_R[places])]
        removed = np.sort(self.ranks_R[np.isin(self.rows_R, ignored)])
        ranks = self.ranks_R[places] - np.searchsorted(removed, self.ranks_R[places])
        # Positives that float32 cannot tell apart stay in their order.
        return ranks + np.maximum.accumulate(self.others_R[places])


def _ranked(
    truth: Sequence[QueryTruth],
    queries_QD: NDArray[np.float32],
    database_ND: NDArray[np.float32],
    others: Sequence[NDArray[np.int64]],
) -> list[_Ranked]:
    """Returns those of each query; similarities are held for a block of queries at a time."""

    def of_query(query: QueryTruth, similarities_N: NDArray[np.float32], others_R: NDArray[np.int64]) -> _Ranked:
        rows_R = named_rows(query)
        return _Ranked(rows_R, ranks_of(similarities_N, rows_R), others_R)

    ranked: list[_Ranked] = []
    with ThreadPoolExecutor(available_cores()) as side_by_side:  # sorting leaves the interpreter free
        for chosen, similarities_qN in cosine_similarities(queries_QD, database_ND):
            ranked += side_by_side.map(of_query, truth[chosen], similarities_qN, others[chosen])
    return ranked
