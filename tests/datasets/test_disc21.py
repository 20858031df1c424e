"""DISC21 in its published layout: queries with and without a reference, and a known micro-AP."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from massl_bench.core.errors import RequestError
from massl_bench.core.values import CopyTruth
from massl_bench.datasets import Dataset, open_dataset
from massl_bench.specs.registry import Registry
from tests.conftest import Answer
from tests.datasets.head_tests import pattern
from tests.datasets.test_layouts import options

QUERIES = {"Q00003": "R000001", "Q00000": "", "Q00001": "R000003", "Q00002": ""}
"""In the order of the table."""
SHOWN = {"Q00003": 1, "Q00000": 4, "Q00001": 3, "Q00002": 90}
"""Q00000 is reference 4 itself, which the table denies: a wrong pair that is more similar than the right ones."""


@pytest.fixture
def disc21(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "disc21"
    for number in range(5):
        write(root / "references" / f"R{number:06}.png", pattern(number))
    for name, shown in SHOWN.items():
        write(root / "queries" / f"{name}.png", pattern(shown, 0 if name == "Q00000" else 1))
    write(root / "queries" / "Q00009.png", pattern(91))  # of the half without a public ground truth
    lines = ["query_id,reference_id", *(f"{query},{reference}" for query, reference in QUERIES.items())]
    (root / "public_ground_truth.csv").write_text("\n".join(lines) + "\n")
    return root


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def opened(tmp_path: Path) -> Dataset:
    return open_dataset("disc21", Registry(), options(tmp_path))


def test_queries_without_a_reference_are_copies_of_none(tmp_path: Path, disc21: Path) -> None:
    dataset = opened(tmp_path)
    truth = dataset.ground_truth()
    assert isinstance(truth, CopyTruth)
    assert truth.original.tolist() == [1, -1, 3, -1]
    queries = dataset.split("queries")
    assert [queries.locate(row) for row in range(4)] == [f"queries/{name}.png" for name in QUERIES]
    assert dataset.left_out.first == ("queries/Q00009.png",)
    assert truth.unlike_published == ("originals: 5 of 1000000", "disc21: 4 of 25000")
    assert "whitening" not in dataset.sources
    write(disc21 / "train" / "T000000.png", pattern(50))
    assert opened(tmp_path).num_items("whitening") == 1


def test_the_folders_may_lie_in_images(tmp_path: Path, disc21: Path) -> None:
    (disc21 / "images").mkdir()
    for name in ("queries", "references"):
        (disc21 / name).rename(disc21 / "images" / name)
    assert opened(tmp_path).split("originals").locate(4) == "images/references/R000004.png"


def test_micro_ap_counts_pairs_of_distractor_queries(
    tmp_path: Path, disc21: Path, run_cli: Callable[..., Answer]
) -> None:
    arguments = ("run", "--task", "copy-detection-micro", "--dataset", "disc21", "--data-root", tmp_path / "data")
    answer = run_cli(*arguments, "--model", "pixels", "--json")
    assert answer.code == 0, answer.err
    record = json.loads(answer.out)[0]["record"]
    assert record["identity"]["task"]["headline"] == "micro_ap"
    # The wrong pair of Q00000 comes first, the two right ones second and third.
    assert record["metrics"]["micro_ap"]["value"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert record["metrics"]["map_disc21"]["value"] == 1.0
    assert record["metrics"]["map_disc21"]["details"]["queries_left_out"] == 2


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("query,reference\nQ00000,\n", "line 1: expected query_id,reference_id"),
        ("query_id,reference_id\nQ00000,\nQ00000,R000001\n", "line 3: the query Q00000 is there twice"),
        ("query_id,reference_id\nQ00007,\n", "no image of the query Q00007"),
        ("query_id,reference_id\nQ00000,R000009\n", "no image of the reference R000009"),
    ],
)
def test_a_wrong_table_is_named(tmp_path: Path, disc21: Path, table: str, text: str) -> None:
    (disc21 / "public_ground_truth.csv").write_text(table)
    with pytest.raises(RequestError, match=text):
        opened(tmp_path).ground_truth()
