"""A request as another process gets it."""

from __future__ import annotations

import pickle
from pathlib import Path

from massl_bench.bench.request import RunRequest
from massl_bench.bench.runner import run_request
from massl_bench.datasets import DataOptions
from massl_bench.features import Reporting
from massl_bench.specs.registry import Registry


def test_a_pickled_request_of_one_cell_gives_the_same_outcome(tmp_path: Path) -> None:
    registry = Registry(weights_dir=tmp_path / "weights")
    assert "knn" in registry.tasks  # what it has looked up already goes with it
    request = RunRequest(
        cells=[("knn", "digits")],
        models=["pixels"],
        limit={"": 250},
        device="cpu",
        data=DataOptions(cache_dir=tmp_path / "cache", offline=True),
        results_dir=tmp_path / "here",
    )
    (here,) = run_request(request, registry, Reporting())
    shipped = pickle.loads(pickle.dumps((request, registry, Reporting())))
    (there,) = run_request(*shipped)
    assert (here.status, there.status) == ("done", "finished")
    assert there.record == here.record
    assert pickle.loads(pickle.dumps(there)) == there
