"""Spherical k-means by FAISS."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import RequestError
from massl_bench.core.progress import Progress, Report, report_nothing
from massl_bench.learners.faiss_backend import import_faiss, large_blocks, on_gpu

_SEED_STEP = 15_486_557
"""What FAISS adds to its seed for each further run."""


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


def spherical_kmeans(
    rows_ND: NDArray[np.float32],
    settings: ClusteringSettings,
    *,
    device: str = "cpu",
    report: Report = report_nothing,
) -> NDArray[np.float32]:
    """Returns the centroids float32 [num_clusters, D], at unit norm, of FAISS's spherical k-means.

    The rows are used as they are: not brought to unit norm, so that longer ones weigh more (as CARP's scripts do).

    Args:
        rows_ND: contiguous.
        settings: of FAISS.
        device: where rows are assigned; the rounding of a GPU, which FAISS must be able to use, can lead to another
            clustering.
        report: is told how many runs are done.

    Raises:
        RequestError: Fewer rows than clusters, or FAISS's installation is broken.
    """
    if not 1 <= settings.num_clusters <= len(rows_ND):
        raise RequestError(
            f"k-means: {settings.num_clusters} clusters asked of {len(rows_ND)} rows; allowed: 1 to {len(rows_ND)}"
        )
    best_KD, most = np.empty(0, dtype=np.float32), -np.inf
    runs = _runs(len(rows_ND), settings)
    for number, (seed, restarts) in enumerate(runs):
        report(lambda done=number: Progress(done=done, total=len(runs), unit="clusterings made"))  # type: ignore[misc]
        centroids_KD, objective = _clustering(rows_ND, settings, seed, restarts, device)
        if objective > most:
            best_KD, most = centroids_KD, objective
    return best_KD


def _runs(num_rows: int, settings: ClusteringSettings) -> list[tuple[int, int]]:
    """Returns (seed, restarts) of calls of FAISS that make what one call with all restarts makes, to the bit.

    One call each, so that somebody can be told of them; a single one where the rows are drawn by the seed, or where the
    last seed is more than FAISS takes.
    """
    limit = settings.max_points_per_centroid
    last = settings.seed + (settings.restarts - 1) * _SEED_STEP
    if last >= 2**31 or (limit is not None and limit * settings.num_clusters < num_rows):
        return [(settings.seed, settings.restarts)]
    return [(settings.seed + number * _SEED_STEP, 1) for number in range(settings.restarts)]


def _clustering(
    rows_ND: NDArray[np.float32], settings: ClusteringSettings, seed: int, restarts: int, device: str
) -> tuple[NDArray[np.float32], float]:
    """Returns (the centroids [num_clusters, D], the sum of the rows' inner products with theirs)."""
    faiss, limit = import_faiss(), settings.max_points_per_centroid
    clustering = faiss.Kmeans(
        rows_ND.shape[1],
        settings.num_clusters,
        niter=settings.iterations,
        nredo=restarts,
        seed=seed,
        spherical=True,
        update_index=False,
        max_points_per_centroid=-(-len(rows_ND) // settings.num_clusters) if limit is None else limit,
        min_points_per_centroid=1,  # below FAISS's 39 it only warns, on stderr
    )
    with nullcontext() if device == "cpu" else on_gpu(device) as placed:
        if placed is not None:
            clustering.index = placed(clustering.index)
        clustering.train(rows_ND)
    centroids_KD: NDArray[np.float32] = clustering.centroids.copy()
    return centroids_KD, float(clustering.obj[-1])


def most_similar(rows_ND: NDArray[np.float32], centroids_KD: NDArray[np.float32]) -> NDArray[np.int64]:
    """Returns for each row the centroid of the largest inner product, int64 [N]."""
    faiss = import_faiss()
    with large_blocks():
        _, index_N1 = faiss.knn(np.ascontiguousarray(rows_ND), centroids_KD, 1, metric=faiss.METRIC_INNER_PRODUCT)
    index_N: NDArray[np.int64] = index_N1[:, 0]
    return index_N
