"""The same answers on a GPU; skipped, with the reason, where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import massl_bench as mb
from massl_bench import protocols
from massl_bench.bench.planned import ImageCell
from massl_bench.bench.planner import Planner
from massl_bench.bench.request import RunRequest
from massl_bench.core.settings import Precision
from massl_bench.core.values import EvaluationData, SearchBackend
from massl_bench.datasets import DataOptions
from massl_bench.features.agreement import agreement_of
from massl_bench.features.banks import Reporting
from massl_bench.learners import device_neighbours, faiss_backend, neighbours
from massl_bench.learners.cosines import unit_rows
from massl_bench.models.identity import network_sha256, tensors_sha256
from massl_bench.specs.registry import Registry

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


GPU = "cuda:0"
ON_GPU = SearchBackend("torch", GPU)
WITHOUT_FAISS = not faiss_backend.installed_faiss()


def exact_neighbours(queries: np.ndarray, database: np.ndarray, k: int) -> np.ndarray:
    """By float64 cosine, then by lower index."""
    one, other = (torch.from_numpy(rows).double() for rows in (queries, database))
    one, other = (torch.nn.functional.normalize(rows, dim=1) for rows in (one, other))
    return (one @ other.T).numpy().argsort(axis=1, kind="stable")[:, ::-1][:, :k]


@pytest.mark.parametrize("count", [2_000, 20_000])
@pytest.mark.parametrize("near", [False, True], ids=["apart", "nearly equal"])
def test_neighbours_are_the_exact_ones(count: int, near: bool) -> None:
    """Also where float32 cannot tell similarities apart: the same sets at every boundary."""
    rng = np.random.default_rng(4)
    queries, database = (rng.standard_normal((rows, 384), dtype=np.float32) for rows in (300, count))
    if near:
        queries, database = (1 + np.float32(0.02) * rows for rows in (queries, database))
    exact, ks = exact_neighbours(queries, database, 200), (10, 20, 100)
    found = neighbours.cosine_neighbours(queries, database, 200, boundaries=ks, backend=ON_GPU)
    for k in (*ks, 200):
        assert (np.sort(found.indices_QK[:, :k]) == np.sort(exact[:, :k])).all()
    unit_QD, unit_ND = unit_rows(queries), unit_rows(database)
    expected_QK = np.einsum("qd,qkd->qk", unit_QD, unit_ND[found.indices_QK])
    np.testing.assert_allclose(found.similarities_QK, expected_QK, atol=2e-6)


def test_copies_and_rows_of_zeros() -> None:
    """Crowds around the last place, taken by index; a row of zeros is similar to nothing."""
    database = np.tile(np.eye(4, dtype=np.float32)[:2], (600, 1))
    database[7] = 0
    query = np.array([[0, 2, 0, 0], [0, 0, 0, 0]], dtype=np.float32)
    found = neighbours.cosine_neighbours(query, database, 300, backend=ON_GPU)
    assert found.indices_QK[0].tolist() == [row for row in range(1, 700, 2) if row != 7][:300]
    assert found.indices_QK[1].tolist() == list(range(300))


def clusters(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of ten classes that overlap, and their labels."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((10, 64), dtype=np.float32)
    labels = rng.integers(0, 10, count)
    return centres[labels] + 2 * rng.standard_normal((count, 64), dtype=np.float32), labels


def on_the_card(bank: mb.FeatureBank) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(bank.features).to(GPU), torch.from_numpy(bank.labels).to(GPU)


def test_features_on_the_card_stay_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """k-NN of tensors that lie on the card: nothing goes there again, and scores are those of the CPU."""
    banks = {
        role: mb.FeatureBank.from_arrays(*clusters(count, count)) for role, count in (("train", 3000), ("test", 900))
    }
    spec = Registry().task("knn")
    params = protocols.parameters(spec, "test")
    data = EvaluationData(banks=banks, num_classes=10, backend=SearchBackend("torch", "cpu"))
    expected = protocols.run(spec, params, data, np.random.default_rng(spec.seed))
    from_memory = mb.evaluate("knn", banks, device=GPU)

    def refused(*_: object) -> torch.Tensor:
        raise AssertionError("copied to the card a second time")

    monkeypatch.setattr(device_neighbours, "_copied", refused)
    from_card = mb.evaluate("knn", {role: on_the_card(bank) for role, bank in banks.items()}, device=GPU)
    for name, score in expected.items():
        assert from_memory[name].value == pytest.approx(score.value, abs=1 / 900)  # a vote may hang on a last digit
        assert from_card[name] == from_memory[name]


@pytest.mark.parametrize("task", ["linear", "few-shot"])
def test_classifiers_are_those_of_the_cpu(task: str) -> None:
    banks = {role: clusters(count, count) for role, count in (("train", 1500), ("test", 900))}
    cpu, gpu = (mb.evaluate(task, banks, device=device) for device in ("cpu", GPU))
    for name, score in cpu.items():
        assert gpu[name].value == pytest.approx(score.value, abs=0.01), name


@pytest.mark.skipif(WITHOUT_FAISS, reason="FAISS is not installed")
def test_kmeans_is_that_of_the_cpu() -> None:
    banks = {role: clusters(count, count) for role, count in (("train", 1500), ("test", 900))}
    cpu, gpu = (mb.evaluate("kmeans", banks, device=device) for device in ("cpu", GPU))
    for name, score in cpu.items():
        assert gpu[name].value == pytest.approx(score.value, abs=0.02), name


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.99), ("tf32", 0.9999)])
def test_a_lower_precision_is_near(image_folder: Path, tmp_path: Path, precision: Precision, least: float) -> None:
    """As tables ask for it; and never bit for bit, which would be fp32 under another name."""
    encoder = mb.load_encoder("random:vit_tiny_patch16_224", device=GPU)
    full, lower = (
        mb.extract(
            encoder,
            f"folder:{image_folder}",
            cache_dir=tmp_path,
            options=mb.ExtractionOptions(precision=each),
        )["train"].features
        for each in ("fp32", precision)
    )
    found = agreement_of(lower, full)
    assert least < found.min_cosine
    assert (full != lower).any()


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_a_run_in_a_lower_precision_enters_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    if WITHOUT_FAISS:
        monkeypatch.setattr(faiss_backend, "check_installation", lambda: None)
    (outcome,) = mb.benchmark(
        "massl-small-cifar10",
        tasks="knn",
        datasets="digits",
        results_dir=tmp_path / "results",
        cache_dir=tmp_path / "cache",
        device=GPU,
        offline=True,
        progress=False,
        options=mb.ExtractionOptions(precision=precision),
    )
    record = outcome.record
    assert record is not None, outcome.error
    assert record.departures == []
    assert record.environment.search_backend == "torch"
    assert {role: each.num_images for role, each in record.precision_agreement.items()} == {"train": 1000, "test": 450}
    assert outcome.path == tmp_path / "results" / "massl-small-cifar10" / "knn" / f"digits@{precision}.json"


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


def test_identities_are_those_of_the_cpu(
    golden: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the tensors and the network on the device, and of a whole measurement."""
    if WITHOUT_FAISS:  # a request is refused without it, whatever it asks for
        monkeypatch.setattr(faiss_backend, "check_installation", lambda: None)
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
