"""Spherical k-means by FAISS."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import RequestError
from massl_bench.learners.faiss_backend import import_faiss, large_blocks


@dataclass(frozen=True, kw_only=True)
class ClusteringSettings:
    """The settings of FAISS's k-means."""

    num_clusters: int
    iterations: int
    restarts: int
    """The run of the best objective is kept."""
    seed: int
    max_points_per_centroid: int | None
    """FAISS trains on a random part of the rows where there are more than this for each centroid; None: on all."""


def spherical_kmeans(rows_ND: NDArray[np.float32], settings: ClusteringSettings) -> NDArray[np.float32]:
    """Returns the centroids float32 [num_clusters, D], at unit norm, of FAISS's spherical k-means on the CPU.

    The rows are used as they are: not brought to unit norm, so that longer ones weigh more (as CARP's scripts do).

    Raises:
        RequestError: Fewer rows than clusters, or FAISS's installation is broken.
    """
    if not 1 <= settings.num_clusters <= len(rows_ND):
        raise RequestError(
            f"k-means: {settings.num_clusters} clusters asked of {len(rows_ND)} rows; allowed: 1 to {len(rows_ND)}"
        )
    limit = settings.max_points_per_centroid
    if limit is None:
        limit = -(-len(rows_ND) // settings.num_clusters)
    clustering = import_faiss().Kmeans(
        rows_ND.shape[1],
        settings.num_clusters,
        niter=settings.iterations,
        nredo=settings.restarts,
        seed=settings.seed,
        spherical=True,
        update_index=False,
        max_points_per_centroid=limit,
        min_points_per_centroid=1,  # below FAISS's 39 it only warns, on stderr
    )
    clustering.train(np.ascontiguousarray(rows_ND, dtype=np.float32))
    centroids_KD: NDArray[np.float32] = clustering.centroids
    return centroids_KD


def most_similar(rows_ND: NDArray[np.float32], centroids_KD: NDArray[np.float32]) -> NDArray[np.int64]:
    """Returns for each row the centroid of the largest inner product, int64 [N]."""
    faiss = import_faiss()
    with large_blocks():
        _, index_N1 = faiss.knn(np.ascontiguousarray(rows_ND), centroids_KD, 1, metric=faiss.METRIC_INNER_PRODUCT)
    index_N: NDArray[np.int64] = index_N1[:, 0]
    return index_N
