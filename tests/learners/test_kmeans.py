"""Spherical k-means: on clusters that leave no doubt, and on what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from massl_bench.core.errors import RequestError
from massl_bench.learners.faiss_backend import import_faiss
from massl_bench.learners.kmeans import ClusteringSettings, most_similar, spherical_kmeans


def settings(num_clusters: int, *, seed: int = 0, limit: int | None = None) -> ClusteringSettings:
    return ClusteringSettings(
        num_clusters=num_clusters, iterations=20, restarts=5, seed=seed, max_points_per_centroid=limit
    )


def clusters(per_cluster: int, num_clusters: int, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows near the axes, and which axis each is near."""
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(num_clusters), per_cluster)
    return (np.eye(dims)[labels] + 0.05 * rng.standard_normal((len(labels), dims))).astype(np.float32), labels


@pytest.mark.parametrize(("limit", "seed"), [(None, 0), (None, 1234), (10, 7), (None, 2**31 - 2)])
def test_runs_one_by_one_are_those_of_one_call(limit: int | None, seed: int) -> None:
    rows = np.random.default_rng(0).standard_normal((600, 16), dtype=np.float32)
    told: list[str] = []
    found = spherical_kmeans(
        rows,
        ClusteringSettings(num_clusters=20, iterations=8, restarts=4, seed=seed, max_points_per_centroid=limit),
        report=lambda tell: told.append(str(tell())),
    )
    whole = import_faiss().Kmeans(
        16,
        20,
        niter=8,
        nredo=4,
        seed=seed,
        spherical=True,
        update_index=False,
        max_points_per_centroid=limit or 30,
        min_points_per_centroid=1,
    )
    whole.train(rows)
    assert np.array_equal(found, whole.centroids)
    apart = limit is None and seed < 2**31 - 2
    assert told == [f"{done}/{4 if apart else 1} clusterings made" for done in range(4 if apart else 1)]


def test_clusters_that_leave_no_doubt_are_found() -> None:
    rows, labels = clusters(30, 4, 8)
    centroids = spherical_kmeans(rows, settings(4))
    assert centroids.dtype == np.float32
    assert np.linalg.norm(centroids, axis=1) == pytest.approx(np.ones(4), abs=1e-6)
    assigned = most_similar(rows, centroids)
    assert all(len(set(assigned[labels == label])) == 1 for label in range(4))
    assert len(set(assigned)) == 4
    # At the fixed point each centroid is the direction of the sum of its rows: longer rows weigh more.
    for index in range(4):
        total = rows[assigned == index].sum(axis=0)
        np.testing.assert_allclose(centroids[index], total / np.linalg.norm(total), atol=1e-4)


def test_the_seed_decides_and_nothing_else() -> None:
    rows = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
    first, again = (spherical_kmeans(rows, settings(7, seed=3)) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, spherical_kmeans(rows, settings(7, seed=4)))


def test_assignment_is_the_largest_inner_product() -> None:
    rng = np.random.default_rng(1)
    rows, centroids = rng.standard_normal((500, 9)).astype(np.float32), rng.standard_normal((6, 9)).astype(np.float32)
    assert np.array_equal(most_similar(rows, centroids), (rows @ centroids.T).argmax(axis=1))


def test_as_many_clusters_as_rows_and_no_more() -> None:
    rows = np.eye(3, dtype=np.float32)
    assert sorted(most_similar(rows, spherical_kmeans(rows, settings(3)))) == [0, 1, 2]
    for wrong in (0, 4):
        with pytest.raises(RequestError, match=f"{wrong} clusters asked of 3 rows; allowed: 1 to 3"):
            spherical_kmeans(rows, settings(wrong))


def test_a_limit_trains_on_a_part() -> None:
    rows, _ = clusters(100, 2, 4)
    limited = spherical_kmeans(rows, settings(2, limit=10))
    assert not np.array_equal(limited, spherical_kmeans(rows, settings(2)))
    assert len(set(most_similar(rows, limited))) == 2
