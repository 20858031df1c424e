"""Features in bf16: held against fp32's on a sample, and in tables under their own name, or refused."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import massl_bench as mb
from massl_bench.bench.places import registry_with
from massl_bench.core.settings import Precision, PrecisionAgreement, PrecisionBar
from massl_bench.features import ExtractionOptions
from massl_bench.features.agreement import agreement_of
from massl_bench.records.rows import collect
from massl_bench.records.tables import to_csv, to_json, to_latex, to_markdown

BAR = PrecisionBar(sample=1000, min_cosine=0.99, min_equal_neighbours=0.9)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bf16")


def run(
    place: Path,
    include: Path | None = None,
    task: str = "knn",
    *,
    precision: Precision = "bf16",
    force: bool = False,
) -> mb.BenchmarkResult:
    return mb.benchmark(
        "massl-small-cifar10",
        tasks=task,
        datasets="digits",
        results_dir=place / "results",
        cache_dir=place / "cache",
        include_path=[include] if include is not None else [],
        device="cpu",
        offline=True,
        progress=False,
        options=ExtractionOptions(precision=precision),
        force=force,
    )


def test_a_run_in_bf16_enters_the_table_under_its_own_name(place: Path) -> None:
    (outcome,) = run(place)
    record = outcome.record
    assert record is not None, outcome.error
    assert record.departures == []
    assert outcome.path is not None
    assert outcome.path.name == "digits@bf16.json"  # beside that of fp32, which it does not replace
    assert {role: each.num_images for role, each in record.precision_agreement.items()} == {"train": 1000, "test": 450}
    assert all(0.999 < each.min_cosine < 1 for each in record.precision_agreement.values())
    assert all(0.9 < each.equal_neighbours < 1 for each in record.precision_agreement.values())
    assert record.num_extracted == 1347 + 450 + 1000 + 450

    (reference,) = run(place, precision="fp32")
    assert reference.record is not None
    assert reference.record.precision_agreement == {}
    board = collect(place / "results", registry_with([]))
    assert sorted((row.name, row.record.identity.precision) for row in board.rows) == [
        ("massl-small-cifar10", "fp32"),
        ("massl-small-cifar10 (bf16)", "bf16"),
    ]
    assert len({row.model for row in board.rows}) == 2
    assert "| massl-small-cifar10 (bf16) |" in to_markdown(board)
    assert "massl-small-cifar10 (bf16) &" in to_latex(board)
    assert [line["precision"] for line in to_json(board)["rows"]].count("bf16") == 1
    lines = csv.DictReader(to_csv(board).splitlines())
    assert sorted(line["precision"] for line in lines) == ["bf16", "fp32"]

    (again,) = run(place)
    assert again.status == "finished"


def test_features_that_are_remembered_are_not_compared_again(place: Path) -> None:
    (outcome,) = run(place, force=True)
    assert outcome.record is not None
    assert outcome.record.num_extracted == 0
    assert outcome.record.precision_agreement["train"].num_images == 1000


def test_a_table_holds_records_against_the_bar_of_today(place: Path, tmp_path: Path) -> None:
    stricter(tmp_path, "knn")
    board = collect(place / "results", registry_with([tmp_path]))
    assert [row.name for row in board.rows] == ["massl-small-cifar10"]  # that of fp32 is as it was
    assert [reason.partition(":")[0] for _, reason in board.apart] == ["in bf16, too far from fp32"]


def stricter(folder: Path, name: str) -> None:
    text = (Path(__file__).parents[2] / "tasks" / "knn.toml").read_text().replace('name = "knn"', f'name = "{name}"')
    (folder / "tasks").mkdir()
    (folder / "tasks" / f"{name}.toml").write_text(
        text.replace("min_equal_neighbours = 0.9 ", "min_equal_neighbours = 1.0 ")
    )


def test_too_far_from_fp32_is_one_line_and_keeps_nothing(place: Path, tmp_path: Path) -> None:
    stricter(tmp_path, "strict-knn")
    (outcome,) = run(place, tmp_path, "strict-knn")
    assert outcome.record is None
    assert outcome.error is not None
    assert outcome.error.startswith("digits/train: features in bf16 are too far from those in fp32 for strict-knn: ")
    assert outcome.error.endswith(" of 1,000 images; nothing is kept: precision='fp32'")
    assert "\n" not in outcome.error
    assert not list((place / "results").glob("*/strict-knn/*"))
    kept = [file.read_text() for file in (place / "cache" / "features").glob("*/*/meta.json")]
    assert all('"precision":"fp32"' in text for text in kept)


def test_small_differences_that_bf16_rounds_away_are_seen() -> None:
    """Cosines near 1 tell nothing where all images have nearly one feature: their neighbours do."""
    rng = np.random.default_rng(0)
    full = (10 + 0.05 * rng.standard_normal((300, 64))).astype(np.float32)
    lower = torch.from_numpy(full).bfloat16().float().numpy()
    found = agreement_of(lower, full)
    assert found.min_cosine > 0.9999
    assert found.equal_neighbours < 0.5
    assert found.shortfall(BAR) is not None

    spread = rng.standard_normal((300, 64)).astype(np.float32)
    found = agreement_of(torch.from_numpy(spread).bfloat16().float().numpy(), spread)
    assert found.equal_neighbours > 0.97
    assert found.shortfall(BAR) is None


def test_agreement_by_hand() -> None:
    full = np.array([[1, 0], [0.9, 0.1], [0, 1], [0, 0]], np.float32)
    assert agreement_of(full * 4, full) == PrecisionAgreement(num_images=4, min_cosine=1, equal_neighbours=1)
    turned = full.copy()
    turned[1] = [0.1, 0.9]  # now nearest to the third, as that is to it; the first has none but the second left
    found = agreement_of(turned, full)
    assert found.min_cosine == pytest.approx(0.18 / 0.82)
    assert found.equal_neighbours == pytest.approx(0.75)
