"""k-means clustering of frozen features, compared with the classes (CARP, NeurIPS 2023, section 5; its k-means script).

Features are standardised per dimension on the training items and not brought to unit norm; spherical k-means with as
many clusters as classes; the test items are assigned to the most similar centroid and compared with their classes.

Shapes: N items, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from massl_bench.core.arrays import pieces
from massl_bench.core.errors import RequestError
from massl_bench.core.memory import Extent, Memory
from massl_bench.core.strict import StrictModel
from massl_bench.core.values import EvaluationData, Scores
from massl_bench.core.wording import asked
from massl_bench.learners.faiss_backend import gpu_problem
from massl_bench.learners.kmeans import ClusteringSettings, most_similar, spherical_kmeans
from massl_bench.metrics.clustering import NAMES, clustering_scores
from massl_bench.protocols.base import Protocol
from massl_bench.protocols.shared.checks import check_not_constant
from massl_bench.protocols.shared.labels import check_not_empty, class_count, single_labels

_ROLES = ("train", "test")

_CHUNK = 8192

_BYTES_OF_A_STANDARDISED_FEATURE = 4 + 8 + 8
"""Of a piece, as it is and in float64."""

_BYTES_OF_AN_ITEM = 4 + 8
"""Its inner product with its centroid, and which that is."""


class Params(StrictModel):
    """The parameters of the protocol."""

    iterations: int = Field(gt=0)
    restarts: int = Field(gt=0)
    faiss_seed: int = Field(ge=0, lt=2**31)
    max_points_per_centroid: Annotated[int, Field(gt=0)] | Literal["all"]
    """FAISS trains on a random part of more points than this for each centroid; its own limit is 256."""
    bootstrap_resamples: int = Field(gt=0)


def metric_names(params: Params) -> list[str]:
    """Returns the seven agreement measures and the clustering accuracy."""
    return list(NAMES)


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for an empty split."""
    check_not_empty(_ROLES, num_items)


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> Scores:
    """Returns the agreement of the test items' clusters with their classes.

    Raises:
        RequestError: A split is empty or without labels, fewer than two classes, fewer training items than classes.
        CellError: Every feature dimension is constant.
    """
    check_sizes(params, {role: len(bank) for role, bank in data.banks.items()})
    train, test = data.banks["train"], data.banks["test"]
    labels = single_labels("test", test)
    num_classes = class_count(data)
    if len(train) < num_classes:
        raise RequestError(
            f"{num_classes} clusters asked of {len(train)} training images; at least {num_classes} are needed: "
            f"raise {asked('limit', 'train=N')}"
        )
    check_not_constant("training images", train.features)
    mean_D, inverse_std_D = standardisation(train.features)
    limit = params.max_points_per_centroid
    settings = ClusteringSettings(
        num_clusters=num_classes,
        iterations=params.iterations,
        restarts=params.restarts,
        seed=params.faiss_seed,
        max_points_per_centroid=None if limit == "all" else limit,
    )
    rows_ND = _standardised(train.features, mean_D, inverse_std_D)
    device, notes = _clustering_device(data.backend.device)
    centroids_KD = spherical_kmeans(rows_ND, settings, device=device, report=data.report)
    del rows_ND
    clusters_N = most_similar(_standardised(test.features, mean_D, inverse_std_D), centroids_KD)
    scores = clustering_scores(clusters_N, labels, resamples=params.bootstrap_resamples, rng=rng)
    if device != "cpu":
        scores = {name: replace(score, details={"clustered_on": "GPU"}) for name, score in scores.items()}
    return Scores(scores, notes=notes)


def _clustering_device(device: str) -> tuple[str, tuple[str, ...]]:
    """Returns where FAISS clusters, and a note where that is not the device."""
    if device == "cpu":
        return device, ()
    problem = gpu_problem(int(device.partition(":")[2] or 0))
    return (
        (device, ()) if problem is None else ("cpu", (f"clustered on the CPU: FAISS cannot use {device} ({problem})",))
    )


def memory(params: Params, extent: Extent) -> Memory:
    """Returns what the standardised features of both splits take, FAISS's drawn part of them, and the assignment."""
    train, test = (extent.num_items[role] for role in _ROLES)
    limit = params.max_points_per_centroid
    drawn = min(train, train if limit == "all" else limit * extent.num_classes)
    copied = drawn if drawn < train else 0
    centroids = 5 * 4 * extent.num_classes * extent.dim
    rows = (4 * max(train + copied, test) + _BYTES_OF_A_STANDARDISED_FEATURE * min(train, _CHUNK)) * extent.dim
    return Memory(host=rows + _BYTES_OF_AN_ITEM * train + centroids)


def standardisation(features_ND: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns mean and inverse standard deviation per dimension, the latter 0 where the dimension is constant."""
    count, dims = features_ND.shape
    low_D, high_D = np.full(dims, np.inf, dtype=np.float32), np.full(dims, -np.inf, dtype=np.float32)
    total_1D, squares_D = np.zeros((1, dims)), np.zeros(dims)
    for _, rows_nD in pieces(features_ND, _CHUNK):
        total_1D = np.concatenate([total_1D, rows_nD.astype(np.float64)]).sum(axis=0, keepdims=True)  # row by row
        low_D, high_D = np.minimum(low_D, rows_nD.min(axis=0)), np.maximum(high_D, rows_nD.max(axis=0))
    mean_D = (total_1D[0] / count).astype(np.float32)
    for _, rows_nD in pieces(features_ND, _CHUNK):
        squares_D += ((rows_nD - mean_D).astype(np.float64) ** 2).sum(axis=0)
    std_D = np.sqrt(squares_D / count)
    varies_D = high_D > low_D
    return mean_D, np.where(varies_D, 1 / np.where(varies_D, std_D, 1), 0).astype(np.float32)


def _standardised(
    features_ND: NDArray[np.float32], mean_D: NDArray[np.float32], inverse_std_D: NDArray[np.float32]
) -> NDArray[np.float32]:
    found_ND = np.empty(features_ND.shape, dtype=np.float32)
    for chosen, rows_nD in pieces(features_ND, _CHUNK):
        np.subtract(rows_nD, mean_D, out=found_ND[chosen])
        found_ND[chosen] *= inverse_std_D
    return found_ND


PROTOCOL = Protocol(
    roles=_ROLES,
    params=Params,
    metric_names=metric_names,
    check_sizes=check_sizes,
    run=run,
    memory=memory,
)
