"""Copy detection (DINO, ICCV 2021, section 4.2.1, on Copydays; the micro-AP of DISC21, arXiv 2106.09672).

The database is the originals and the distractors; each query is a copy of one original. Cosine similarity, after
whitening learned on other images where there are any. mAP of each block of copies, and one AP of all pairs together.

Shapes: Q queries, N database rows, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.strict import StrictModel
from massl_bench.core.values import CopyTruth, EvaluationData, FeatureBank, Score
from massl_bench.learners.cosines import cosine_similarities
from massl_bench.metrics.micro_average import micro_average_precision
from massl_bench.metrics.ranking import mean_score, trapezoid_average_precision
from massl_bench.protocols.base import Protocol
from massl_bench.protocols.shared.checks import check_not_constant

_ROLES = ("originals", "queries")


class Params(StrictModel):
    """The parameters of the protocol."""

    rank_limit: Annotated[int, Field(gt=0)] | Literal["all"]
    """An original that is found behind this many others counts as not found."""
    whitening_exponent: float = Field(gt=0)
    """The eigenvalues' power that the principal components are divided by."""
    eigenvalue_floor: float = Field(gt=0)
    """Relative to the largest eigenvalue."""
    bootstrap_resamples: int = Field(gt=0)


def metric_names(params: Params) -> list[str]:
    """Returns the metrics that every dataset has; `map_{block}` is there for each of its blocks."""
    return ["map_strong", "micro_ap"]


def metrics_of_truth(params: Params, truth: CopyTruth) -> list[str]:
    """Returns those of `metric_names` that the queries leave something to find for."""
    found_Q = truth.original >= 0
    there = {"map_strong": (found_Q & (truth.block == "strong")).any(), "micro_ap": found_Q.any()}
    return [name for name in metric_names(params) if there[name]]


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for no queries, or no originals."""
    for role in _ROLES:
        if num_items[role] == 0:
            raise RequestError(f"the {role} are empty: at least one image is needed")


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> dict[str, Score]:
    """Returns the mAP of each block with bootstrap intervals over its queries, and the micro-AP with one over all.

    Raises:
        RequestError: No ground truth, or one naming originals that are not there.
        CellError: A block holds no copy of an original; every image of the database has the same features.
    """
    originals, queries = data.banks["originals"], data.banks["queries"]
    check_sizes(params, {"originals": len(originals), "queries": len(queries)})
    truth = _check_truth(data.ground_truth, len(queries), len(originals))
    database_ND, queries_QD = prepared(data.banks, params)
    distractors, whitening = data.banks.get("distractors"), data.banks.get("whitening")
    details: dict[str, float | int | str] = {
        "distractors": len(distractors) if distractors is not None else 0,
        "whitening": f"learned on {len(whitening)} images" if whitening is not None else "none",
    }
    if truth.missing_blocks:
        details["missing_blocks"] = ", ".join(truth.missing_blocks)
    if truth.unlike_published:
        details["unlike_published"] = ", ".join(truth.unlike_published)

    copies_Q = truth.original >= 0
    rank_Q = np.full(len(queries), -1)
    own_Q = np.zeros(len(queries), dtype=np.float32)
    for chunk, similarities_qN in cosine_similarities(queries_QD, database_ND):
        own_Q[chunk] = np.take_along_axis(similarities_qN, np.maximum(truth.original[chunk], 0)[:, None], 1)[:, 0]
        # Equal similarities are ordered by index: the lower one comes first.
        ahead_qN = similarities_qN > own_Q[chunk, None]
        level_qN = similarities_qN == own_Q[chunk, None]
        level_qN &= np.arange(len(database_ND)) < truth.original[chunk, None]
        rank_Q[chunk] = (ahead_qN | level_qN).sum(axis=1)
    limit = len(database_ND) if params.rank_limit == "all" else params.rank_limit
    ap_Q = np.array([trapezoid_average_precision(np.array([rank]), 1) if rank < limit else 0.0 for rank in rank_Q])
    scores = {}
    for block in sorted(set(truth.block.tolist())):
        chosen_Q = truth.block == block
        counted_Q = chosen_Q & copies_Q
        if not counted_Q.any():
            raise CellError(f"no query of the block {block} is a copy of an original")
        score = mean_score(
            ap_Q[counted_Q],
            left_out=int((chosen_Q & ~copies_Q).sum()),
            resamples=params.bootstrap_resamples,
            rng=rng,
        )
        name = f"map_{block.replace('/', '_')}"
        scores[name] = replace(score, details={**details, **score.details})
    micro = micro_average_precision(
        own_Q,
        copies_Q,
        cosine_similarities(queries_QD, database_ND),
        resamples=params.bootstrap_resamples,
        rng=rng,
    )
    scores["micro_ap"] = replace(micro, details=details)
    return scores


def _check_truth(truth: object, num_queries: int, num_originals: int) -> CopyTruth:
    if not isinstance(truth, CopyTruth):
        raise RequestError("needs a ground truth: the original of each query")
    if len(truth.original) != num_queries or len(truth.block) != num_queries:
        raise RequestError(
            f"the ground truth is of {len(truth.original)} queries with {len(truth.block)} blocks, and "
            f"there are {num_queries} queries"
        )
    wrong = np.flatnonzero((truth.original < -1) | (truth.original >= num_originals))
    if len(wrong):
        raise RequestError(
            f"query {wrong[0]} is said to be a copy of original {truth.original[wrong[0]]}, which is "
            f"not there; allowed: 0 to {num_originals - 1}, or -1 for a copy of none"
        )
    return truth


def prepared(banks: Mapping[str, FeatureBank], params: Params) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns what is searched: originals, then distractors [N, D], and queries [Q, D], whitened where there is how.

    Raises:
        RequestError: The whitening features are of other dimensions.
        CellError: Every image of the database, or of the whitening, has the same features.
    """
    distractors, whitening = banks.get("distractors"), banks.get("whitening")
    rows = [banks["originals"].features] + ([distractors.features] if distractors is not None else [])
    database_ND, queries_QD = np.concatenate(rows), banks["queries"].features
    check_not_constant("database images", database_ND)
    if whitening is not None:
        database_ND, queries_QD = _whitened(whitening, (database_ND, queries_QD), params)
    return database_ND, queries_QD


def _whitened(
    whitening: FeatureBank, arrays: tuple[NDArray[np.float32], ...], params: Params
) -> list[NDArray[np.float32]]:
    """Returns the arrays without the whitening items' mean, in their principal axes, divided by the eigenvalues' power.

    As published: the covariance is that of the uncentred items.
    """
    rows_ND = whitening.features.astype(np.float64)
    if rows_ND.shape[1] != arrays[0].shape[1]:
        raise RequestError(
            f"the whitening features have {rows_ND.shape[1]} dimensions, the database "
            f"{arrays[0].shape[1]}: features of two models?"
        )
    value_D, vector_DD = np.linalg.eigh(rows_ND.T @ rows_ND / len(rows_ND))
    if value_D[-1] <= 0:
        raise CellError("the whitening features are all zero")
    value_D = np.maximum(value_D, params.eigenvalue_floor * value_D[-1])
    project_DD = vector_DD / value_D**params.whitening_exponent
    mean_D = rows_ND.mean(axis=0)
    return [((array.astype(np.float64) - mean_D) @ project_DD).astype(np.float32) for array in arrays]


PROTOCOL = Protocol(
    roles=_ROLES,
    params=Params,
    metric_names=metric_names,
    check_sizes=check_sizes,
    run=run,
    optional_roles=("distractors", "whitening"),
    named_by_truth="originals",
    metrics_of_truth=metrics_of_truth,
)
