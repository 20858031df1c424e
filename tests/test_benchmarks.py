"""Every benchmark runs at its small size, and its results are kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def benchmarks(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_what_there_is() -> None:
    listed = [line.split()[0] for line in benchmarks().stdout.splitlines()]
    assert {"knn", "linear", "retrieval", "massl_objective", "views", "extraction", "startup", "growth"} <= set(listed)


@pytest.mark.slow
def test_one_that_is_not_there() -> None:
    done = benchmarks("knm")
    assert done.returncode == 2
    assert "no benchmark 'knm'; there are extraction, few_shot_svm," in done.stderr


@pytest.mark.slow
def test_one_runs_and_becomes_a_page(tmp_path: Path) -> None:
    done = benchmarks("knn", "few_shot_svm", "--quick", "--json", tmp_path / "x.json")
    assert done.returncode == 0, done.stderr
    assert "largest difference of top-1 from the published loop: 0.00 points" in done.stdout
    record = json.loads((tmp_path / "x.json").read_text())
    (knn,) = record["benchmarks"]["knn"]
    assert knn["ratios"]["published loop"] > 0
    assert record["machine"]["threads"] >= 1
    page = benchmarks("page", tmp_path / "x.json").stdout
    assert "| `knn`: 2,000 × 384, 500 queries, k = 10, 20, 100, 200 " in page
