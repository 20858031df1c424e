"""The same answers on a GPU; skipped, with the reason, where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import massl_bench as mb
from massl_bench.bench.planned import ImageCell
from massl_bench.bench.planner import Planner
from massl_bench.bench.request import RunRequest
from massl_bench.core.values import SearchBackend
from massl_bench.datasets import DataOptions
from massl_bench.features.banks import Reporting
from massl_bench.learners import faiss_backend, neighbours
from massl_bench.models.identity import network_sha256, tensors_sha256
from massl_bench.specs.registry import Registry

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.mark.parametrize("backend", [SearchBackend("faiss-gpu", "cuda:0"), SearchBackend("torch", "cuda:0")])
def test_neighbours_are_those_of_the_cpu(backend: SearchBackend) -> None:
    if backend.name == "faiss-gpu" and (problem := faiss_backend.gpu_problem(0)):
        pytest.skip(f"FAISS cannot use this GPU: {problem}")
    rng = np.random.default_rng(0)
    queries, database = (rng.standard_normal((count, 384), dtype=np.float32) for count in (500, 20_000))
    cpu = neighbours.cosine_neighbours(queries, database, 200)
    gpu = neighbours.cosine_neighbours(queries, database, 200, backend=backend)
    np.testing.assert_allclose(gpu.similarities_QK, cpu.similarities_QK, atol=2e-6)
    assert (gpu.indices_QK == cpu.indices_QK).mean() > 0.999


@pytest.mark.parametrize("size", ["224", "96", "320", "224x320"])
def test_golden_features(size: str, golden: Path) -> None:
    encoder = mb.load_encoder(str(golden / "official_format_checkpoint.pth"), device="cuda:0")
    with np.load(golden / "official_features.npz") as arrays:
        images, expected = torch.from_numpy(arrays[f"images_{size}"]).cuda(), arrays[f"features_{size}"]
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        features = encoder(encoder.normalise(images)).cpu().numpy()
    finally:
        torch.backends.cudnn.allow_tf32 = before
    np.testing.assert_allclose(features, expected, atol=1e-4, rtol=0)


def test_extraction(image_folder: Path, tmp_path: Path) -> None:
    banks = [
        mb.extract(
            mb.load_encoder("random:resnet10t", device=device),
            f"folder:{image_folder}",
            cache_dir=tmp_path / device[:4],
        )
        for device in ("cpu", "cuda:0")
    ]
    np.testing.assert_allclose(banks[0]["train"].features, banks[1]["train"].features, atol=1e-4)


def test_identities_are_those_of_the_cpu(golden: Path, image_folder: Path, tmp_path: Path) -> None:
    """Of the tensors and the network on the device, and of a whole measurement."""
    file, found = golden / "official_format_checkpoint.pth", []
    for device in ("cpu", "cuda:0"):
        network = mb.load_encoder(str(file), device=device).backbone
        request = RunRequest(
            cells=[("knn", f"folder:{image_folder}")],
            models=[str(file)],
            overrides={"knn": {"k": [1], "headline": "top1@1"}},
            device=device,
            data=DataOptions(cache_dir=tmp_path / device[:4]),
            results_dir=tmp_path,
        )
        planner = Planner(request, Registry(), Reporting())
        (cell,) = planner.plan()
        assert isinstance(cell, ImageCell)
        found.append((tensors_sha256(network), network_sha256(network), planner.identity(cell, {}).digest))
    assert found[0] == found[1]
