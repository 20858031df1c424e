"""The tour of the Python interface, as it stands in the documentation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOUR = Path(__file__).parents[2] / "docs" / "tour.py"


@pytest.mark.slow
def test_the_tour(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, TOUR], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "('left', 'right') 1.0" in lines  # every item's nearest neighbour in the same images is itself
    assert lines[-1] == "True"
    records = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")}
    assert {
        f"results/{model}/{task}/digits.json" for model in ("mine", "pixels") for task in ("knn", "spectrum")
    } <= records
