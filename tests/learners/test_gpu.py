"""Fits and clusterings on a GPU; skipped, with the reason, where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from massl_bench.learners import faiss_backend, logistic
from massl_bench.learners import principal_axes as principal
from massl_bench.learners.fit_memory import FitSize
from massl_bench.learners.kmeans import ClusteringSettings, most_similar, spherical_kmeans
from massl_bench.learners.logistic import Stopping, fit
from massl_bench.metrics.clustering import clustering_scores

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

STRENGTHS = 10 ** np.linspace(-4, 2, 13)
STOPPING = Stopping(tolerance=1e-3, max_iterations=300)


def blobs(count: int, dims: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=count)
    features = rng.standard_normal((count, dims), dtype=np.float32) * np.geomspace(1, 0.05, dims, dtype=np.float32)
    return features + 0.3 * rng.standard_normal((classes, dims), dtype=np.float32)[labels], labels


@pytest.mark.parametrize("several", [False, True])
def test_fits_are_those_of_the_cpu(several: bool) -> None:
    features, labels = blobs(5_000, 64, 20)
    targets = np.where(labels[:, None] == np.arange(20), 1, -1).astype(np.int8) if several else labels
    rows = np.random.default_rng(1).permutation(5_000)[:4_000]
    found = [
        fit(features, targets, 20, STRENGTHS, STOPPING, rows_n=rows, device=device) for device in ("cpu", "cuda:0")
    ]
    assert found[1].bias_PK.device.type == "cuda"
    assert (found[0].converged_P == found[1].converged_P).all()
    for problem in range(len(STRENGTHS)):
        cpu, gpu = (each.scores(features, problem) for each in found)
        assert (cpu.argmax(1) == gpu.argmax(1)).mean() > 0.998
    if not several:
        (right, loss), (there_right, there_loss) = (each.right_and_loss(features, rows, labels[rows]) for each in found)
        assert np.abs(right - there_right).max() <= 8
        np.testing.assert_allclose(loss, there_loss, rtol=2e-3)


def test_what_a_gpu_has_no_room_for_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features and coordinates all there, the features on the host, and coordinates computed again in every pass."""
    features, labels = blobs(20_000, 64, 10)
    size = FitSize(dim=64, num_classes=10, num_strengths=len(STRENGTHS), several_labels=False)
    whole = 4 * 64 * 20_000
    found = []
    for free in (1 << 40, size.on_gpu + whole, size.on_gpu + whole // 2, 0):
        for module in (logistic, principal):
            monkeypatch.setattr(module, "free_memory", lambda _device, free=free: free)
        found.append(fit(features, labels, 10, STRENGTHS, STOPPING, device="cuda:0").weights_PRK.cpu())
    assert torch.equal(found[0], found[1])
    for each in found[2:]:  # the products take as many rows; those of several blocks are put together
        torch.testing.assert_close(found[0], each, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("several", [False, True])
def test_memory_stays_below_what_was_said(several: bool) -> None:
    features, labels = blobs(30_000, 128, 300)
    targets = np.where(labels[:, None] == np.arange(300), 1, -1).astype(np.int8) if several else labels
    size = FitSize(dim=128, num_classes=300, num_strengths=len(STRENGTHS), several_labels=several)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fit(features, targets, 300, STRENGTHS, replace(STOPPING, max_iterations=5), device="cuda:0")
    peak = torch.cuda.max_memory_allocated() - before
    said = size.on_gpu + 2 * 4 * 30_000 * 128
    print(f"{peak / 2**20:.0f} MB of {said / 2**20:.0f} MB that were said")
    assert 0.5 * said < peak < 1.05 * said


def test_clusterings_agree_with_the_classes_as_on_the_cpu() -> None:
    if (problem := faiss_backend.gpu_problem(0)) is not None:
        pytest.skip(f"FAISS cannot use this GPU: {problem}")
    features, labels = blobs(20_000, 64, 10)
    settings = ClusteringSettings(num_clusters=10, iterations=30, restarts=5, seed=0, max_points_per_centroid=None)
    nmi = []
    for device in ("cpu", "cuda:0"):
        clusters = most_similar(features, spherical_kmeans(features, settings, device=device))
        nmi.append(clustering_scores(clusters, labels, resamples=10, rng=np.random.default_rng(0))["nmi"].value)
    assert nmi[1] == pytest.approx(nmi[0], abs=0.02)
