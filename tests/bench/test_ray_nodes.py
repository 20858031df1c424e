"""Two nodes of Ray on this machine, of which one dies. In a file of its own: a process is in one cluster at a time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.test_launchers import LIMIT, numbers
from tests.conftest import Answer

Cli = Callable[..., Answer]


@pytest.mark.cluster
def test_a_node_that_dies_takes_nothing_with_it(run_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes, twelve cells, one node is killed when the first record is there: all cells, no bank made anew."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cells = ["--task", "knn,few-shot,spectrum,kmeans", "--dataset", "digits"]
    cells += ["--model", "pixels,random:test_vit,random:test_resnet", *LIMIT]
    local = run_cli("run", *cells, "--results-dir", tmp_path / "local", "--cache-dir", tmp_path / "a")
    assert local.code == 0, local.err
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    other = cluster.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    banks: dict[Path, int] = {}

    def kill() -> None:
        while not list((tmp_path / "ray").rglob("*.json")):
            time.sleep(0.05)
        banks.update({path: path.stat().st_mtime_ns for path in (tmp_path / "b").rglob("features/*/*/meta.json")})
        cluster.remove_node(other, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    places = ["--results-dir", tmp_path / "ray", "--cache-dir", tmp_path / "b"]
    try:
        answer = run_cli("run", *cells, *places, "--launcher", "ray", "--json")
    finally:
        killer.join(timeout=60)
        cluster.shutdown()
    assert answer.code == 0, answer.err
    assert "2 tasks on 2 nodes" in answer.err
    statuses = [(outcome["model"], outcome["task"], outcome["status"]) for outcome in json.loads(answer.out)]
    assert len(set(statuses)) == len(statuses) == 12
    assert {status for *_, status in statuses} == {"done"}
    assert numbers(tmp_path / "ray") == numbers(tmp_path / "local")
    assert banks
    assert {path: path.stat().st_mtime_ns for path in banks} == banks
    assert len(list((tmp_path / "b").rglob("features/*/*/meta.json"))) == 6
