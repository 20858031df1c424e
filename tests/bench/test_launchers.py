"""Launchers: a real Ray cluster on this machine, one that a plugin brings, and names that are none."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import Answer

Cli = Callable[..., Answer]

CELLS = ["--task", "knn,few-shot,spectrum", "--dataset", "digits", "--model", "pixels,random:test_vit"]
LIMIT = ["--limit", "train=200,test=60"]

PLUGIN = """
from massl_bench.bench.launch import Launcher
from massl_bench.bench.runner import run_request

def run(request, registry, reporting):
    reporting.say(f"shouting {len(request.cells)} cells")
    return run_request(request, registry, reporting)

LAUNCHER = Launcher(name="shout", help="As local, and louder.", run=run)
"""

PROJECT = """
[project]
name = "other-bench"
version = "0.3"
[project.entry-points."massl_bench.launchers"]
shout = "other_bench.shout"
"""


def numbers(folder: Path) -> dict[str, tuple[str, dict[str, float]]]:
    """Identity and metrics of every record, by its place."""
    found = {}
    for path in sorted(folder.rglob("*.json")):
        record = json.loads(path.read_text())
        values = {name: metric["value"] for name, metric in record["metrics"].items()}
        found[str(path.relative_to(folder))] = (record["identity_sha256"], values)
    return found


def test_one_file_outside_the_package_adds_a_launcher(run_cli: Cli, install: Callable[[dict[str, str]], Path]) -> None:
    install({"pyproject.toml": PROJECT, "other_bench/__init__.py": "", "other_bench/shout.py": PLUGIN})
    run = ["run", "--task", "knn", "--dataset", "digits", "--model", "pixels", "--limit", "20"]
    answer = run_cli(*run, "--set", "knn.k=10", "--set", "knn.headline=top1@10", "--launcher", "shout")
    assert answer.code == 0, answer.err
    assert "shouting 1 cells" in answer.err


def test_a_launcher_that_is_not_there(run_cli: Cli) -> None:
    answer = run_cli("run", "--task", "knn", "--dataset", "digits", "--model", "pixels", "--launcher", "lokal")
    assert answer.code == 2
    assert "unknown launcher 'lokal'" in answer.error
    assert "local" in answer.error


@pytest.fixture(scope="module")
def cluster() -> Iterator[ModuleType]:
    """A real cluster of Ray on this machine, started as the launcher starts one; runs join it."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    from massl_bench.bench.launchers.ray import _join, _ray

    ray: ModuleType = _ray()
    _join(ray)
    yield ray
    ray.shutdown()


@pytest.mark.cluster
def test_ray_gives_the_records_of_a_local_run(run_cli: Cli, cluster: ModuleType, tmp_path: Path) -> None:
    """Two models, three tasks: identities and metrics are equal, and what is there is not run again."""
    local = run_cli("run", *CELLS, *LIMIT, "--results-dir", tmp_path / "local", "--cache-dir", tmp_path / "a")
    assert local.code == 0, local.err
    places = ["--results-dir", tmp_path / "ray", "--cache-dir", tmp_path / "b"]
    answer = run_cli("run", *CELLS, *LIMIT, *places, "--launcher", "ray", "--json")
    assert answer.code == 0, answer.err
    outcomes = json.loads(answer.out)
    assert [outcome["status"] for outcome in outcomes] == ["done"] * 6
    assert numbers(tmp_path / "ray") == numbers(tmp_path / "local")
    assert len(numbers(tmp_path / "ray")) == 6
    record = json.loads(next((tmp_path / "ray").rglob("*.json")).read_text())
    assert "worker" not in " ".join(record["argv"])
    again = run_cli("run", *CELLS, *LIMIT, *places, "--launcher", "ray", "--json")
    assert [outcome["status"] for outcome in json.loads(again.out)] == ["finished"] * 6


def listening(inodes: set[str]) -> list[str]:
    """The addresses at which sockets listen, of those with these inodes, as /proc writes them."""
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.append(fields[1].partition(":")[0])
    return found


def sockets_of(process: int) -> set[str]:
    """The inodes of the sockets of a process and of those that it started."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    family = {process}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    found = set()
    for member in family:
        with suppress(OSError):
            for link in Path(f"/proc/{member}/fd").iterdir():
                with suppress(OSError):
                    name = os.readlink(link)  # noqa: PTH115  # no path, but `socket:[123]`
                    found |= {name[8:-1]} if name.startswith("socket:[") else set()
    return found


@pytest.mark.cluster
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="sockets are read from /proc, which is Linux's")
def test_a_cluster_of_this_machine_listens_to_nobody_else(cluster: ModuleType) -> None:
    addresses = listening(sockets_of(os.getpid()))
    assert addresses  # its servers are there
    assert set(addresses) <= {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


@pytest.mark.cluster
def test_a_worker_that_dies_is_retried(cluster: ModuleType, tmp_path: Path) -> None:
    """The task kills its own worker at the first try; Ray runs it again, and the outcome is that of the second."""
    from massl_bench.bench.launchers.ray import _RETRIES

    marker = tmp_path / "tried"

    def dies_once() -> str:
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "done"

    assert cluster.get(cluster.remote(num_cpus=1, max_retries=_RETRIES)(dies_once).remote()) == "done"
