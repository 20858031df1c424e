"""What a record says of the process that made it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from massl_bench.records import environment as module
from massl_bench.records.environment import environment
from massl_bench.specs.registry import packaged_root

PEAK = "from massl_bench.records.environment import peak_memory_mb; print(peak_memory_mb('cpu')['host'])"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc, which is Linux's")
def test_the_peak_is_of_this_process_and_not_of_the_one_that_started_it() -> None:
    held = np.ones(50_000_000)  # 400 MB
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert 10 < float(done.stdout) < held.nbytes / 1e6 / 2


def test_the_versions_are_there() -> None:
    found = environment("cpu")
    assert found.packages["numpy"] == np.__version__
    assert environment("cpu") == found


def test_the_version_is_the_checkouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable installation's metadata keep the version of the day it was made."""
    monkeypatch.setattr(metadata, "version", lambda name: "0.0.1")
    module._versions.cache_clear()
    try:
        packages = environment("cpu").packages
    finally:
        monkeypatch.undo()
        module._versions.cache_clear()
    project = tomllib.loads((packaged_root() / "pyproject.toml").read_text())["project"]
    assert packages["massl-bench"] == project["version"]
    assert packages["torch"] == "0.0.1"


@pytest.mark.parametrize("first", ["import numpy", "import numpy, torch; torch.set_num_threads(1)"])
def test_the_threads_are_there_with_torch_and_without(first: str) -> None:
    code = f"{first}; from massl_bench.records.environment import environment; print(environment('cpu').threads)"
    wanted = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=wanted)
    assert done.stdout.strip() == "1"
