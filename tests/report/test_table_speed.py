"""A table of many records, on a machine that is not busy otherwise (`tox -e base,speed`)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from massl_bench.specs.registry import Registry
from tests.report.made import many

pytestmark = pytest.mark.speed


def test_twenty_thousand_records(tmp_path: Path) -> None:
    """The page is built within ten seconds and a gigabyte, the start of the command included."""
    cells = [(task, data) for task in ("knn", "linear", "few-shot", "kmeans") for data in Registry().datasets][:40]
    many(tmp_path / "results", [f"model-{number:03d}" for number in range(500)], cells)
    command = [sys.executable, "-m", "massl_bench", "leaderboard", "--format", "html", "--out", "board.html"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=tmp_path, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    spent, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6
    print(f"20,000 records: {seconds:.1f} s, {spent:.1f} s of CPU time, {memory:.2f} GB")
    assert status == 0
    assert seconds < 10
    assert memory < 1
