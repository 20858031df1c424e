"""One request in several processes: the records of one process, each cell once, and nothing is lost with a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, cast

import pytest

from massl_bench.bench import processes
from massl_bench.bench.gathering import Gathered
from massl_bench.bench.launchers import local
from massl_bench.bench.processes import devices_of
from massl_bench.bench.request import RunRequest
from massl_bench.bench.runner import Outcome, Status, run_request
from massl_bench.bench.shards import parse_shard, shard_of_environment
from massl_bench.core.errors import RequestError
from massl_bench.datasets import DataOptions
from massl_bench.features import ExtractionOptions, Reporting
from massl_bench.features.options import Shard
from massl_bench.specs.registry import Registry
from tests.bench.test_launchers import numbers
from tests.conftest import Answer

Cli = Callable[..., Answer]
Numbers = dict[str, tuple[str, dict[str, float]]]

CELLS = ["--task", "knn,few-shot,spectrum", "--dataset", "digits", "--model", "pixels"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Numbers:
    """Identity and metrics of the records of one process."""
    place = tmp_path_factory.mktemp("alone")
    command = [
        sys.executable,
        "-m",
        "massl_bench",
        "run",
        *CELLS,
        "--results-dir",
        str(place),
        "--cache-dir",
        str(place / "cache"),
    ]
    subprocess.run(command, check=True, env=environment(), capture_output=True)
    return numbers(place / "pixels")


def environment(**more: str) -> dict[str, str]:
    places = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1", **more}


def test_several_processes_give_the_records_of_one(run_cli: Cli, tmp_path: Path, alone: Numbers) -> None:
    command = ["run", *CELLS, "--processes", "2", "--results-dir", tmp_path / "r", "--json"]
    answer = run_cli(*command)
    assert answer.code == 0, answer.err
    outcomes = json.loads(answer.out)
    assert sorted(outcome["task"] for outcome in outcomes) == ["few-shot", "knn", "spectrum"]
    assert {outcome["status"] for outcome in outcomes} == {"done"}
    assert numbers(tmp_path / "r" / "pixels") == alone
    assert "2 processes, on cpu" in answer.err
    record = json.loads(next((tmp_path / "r").rglob("*.json")).read_text())
    assert "spawn" not in " ".join(record["argv"])
    again = run_cli(*command)
    assert [outcome["status"] for outcome in json.loads(again.out)] == ["finished"] * 3
    assert "2 processes" not in again.err  # there was nothing to do


def test_what_a_killed_process_had_is_done_by_the_others(
    run_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: Numbers
) -> None:
    started: list[int] = []
    killed: list[int] = []
    begin = SpawnProcess.start

    def noted(process: SpawnProcess) -> None:
        begin(process)
        assert process.pid is not None
        started.append(process.pid)

    monkeypatch.setattr(SpawnProcess, "start", noted)

    opened = processes._Bars.begin

    def begun(bars: processes._Bars, label: str, total: int) -> None:
        opened(bars, label, total)
        if started[0] not in killed:
            os.kill(started[0], signal.SIGKILL)
            killed.append(started[0])

    monkeypatch.setattr(processes._Bars, "begin", begun)
    answer = run_cli("run", *CELLS, "--processes", "2", "--results-dir", tmp_path / "r", "--cache-dir", tmp_path / "c")
    assert len(started) >= 2
    assert answer.code == 0, answer.err
    assert numbers(tmp_path / "r" / "pixels") == alone


def test_shards_share_the_cells_and_none_is_needed(tmp_path: Path, alone: Numbers) -> None:
    """Three shards are asked for, two are started, one of them as srun would: every cell is measured once."""
    command = [sys.executable, "-m", "massl_bench", "run", *CELLS, "--results-dir", str(tmp_path / "r"), "--json"]
    command += ["--cache-dir", str(tmp_path / "cache")]
    slurm = environment(SLURM_PROCID="2", SLURM_NTASKS="3")
    running = [
        subprocess.Popen(
            [*command, "--shard", "0/3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
        ),
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=slurm),
    ]
    told = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0], told
    assert b"shard 2 of 3, as this process was started" in told[1][1]
    statuses = [(outcome["task"], outcome["status"]) for out, _ in told for outcome in json.loads(out)]
    assert sorted(task for task, status in statuses if status == "done") == ["few-shot", "knn", "spectrum"]
    assert "failed" not in {status for _, status in statuses}
    assert numbers(tmp_path / "r" / "pixels") == alone


def test_of_what_several_processes_say_each_cell_is_told_once() -> None:
    def said(task: str, status: Status) -> Outcome:
        return Outcome(task=task, dataset="d", model="m", status=status, error=status)

    gathered = Gathered([], cast(Any, None))
    gathered.open = {(task, "d", "m") for task in "abcde"}
    told = [("a", "done"), ("a", "finished"), ("b", "finished"), ("b", "done"), ("c", "failed"), ("c", "failed")]
    told += [("d", "elsewhere"), ("b", "finished"), ("e", "failed"), ("e", "done"), ("d", "finished")]
    found = [each for task, status in told for each in gathered.take(said(task, cast(Status, status)))]
    assert [(each.task, each.status) for each in found] == [("a", "done"), ("b", "done"), ("e", "done")]
    assert gathered.lost == []
    assert [(each.task, each.status) for each in gathered.rest()] == [("c", "failed"), ("d", "done")]
    gathered.open.add(("f", "d", "m"))
    assert gathered.lost == [("f", "d", "m")]
    assert [each.error for each in gathered.rest("why")] == ["failed", "finished", "why"]


def test_shards_by_name() -> None:
    assert parse_shard("0/4") == Shard(0, 4)
    for wrong in ("4/4", "1", "-1/4", "a/b", "1/0", "1/4/2", ""):
        with pytest.raises(RequestError, match=r"i/n with i from 0 to n − 1"):
            parse_shard(wrong)
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert shard_of_environment(torchrun) == (Shard(5, 8, 4), 1)
    assert shard_of_environment({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}) == (Shard(3, 4, 1), 0)
    for nothing in ({}, {"RANK": "0", "WORLD_SIZE": "1"}, {"RANK": "x", "WORLD_SIZE": "2"}, {"SLURM_PROCID": "0"}):
        assert shard_of_environment(nothing) is None


def test_a_process_for_each_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def devices(**asked: Any) -> list[str]:
        request = RunRequest(
            cells=[("knn", "digits")],
            models=["pixels"],
            data=DataOptions(cache_dir=tmp_path),
            results_dir=tmp_path,
            **asked,
        )
        return devices_of(request)

    monkeypatch.setattr(processes, "num_gpus", lambda: 3)
    assert devices() == ["cuda:0", "cuda:1", "cuda:2"]
    assert devices(devices=["cuda:1", "cuda:2"]) == ["cuda:1", "cuda:2"]
    assert devices(processes=4) == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    assert devices(device="cpu") == ["cpu"]
    assert devices(device="cpu", processes=2) == ["cpu", "cpu"]
    assert devices(extraction=ExtractionOptions(shard=Shard(1, 2))) == ["auto"]
    assert devices(features_file=Path("f.npz"), device="cpu") == ["cpu"]
    monkeypatch.setattr(processes, "num_gpus", lambda: 0)
    assert devices(device="cpu") == ["cpu"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--devices", "a"], "--devices a: expected numbers of GPUs"),
        (["--devices", "cuda:97"], "--device cuda:97"),
        (["--shard", "2/2"], "--shard 2/2: expected i/n"),
        (["--shard", "0/2", "--processes", "2"], "give either"),
        (["--processes", "0"], "--processes"),
    ],
)
def test_what_cannot_be_shared_is_said(run_cli: Cli, options: list[str], said: str) -> None:
    answer = run_cli("run", *CELLS, *options)
    assert answer.code == 2
    assert said in answer.err


def test_verify_and_python_use_what_run_uses(
    tmp_path: Path, run_cli: Cli, alone: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a script without a guard around its calls: the processes do not run it again."""
    script = tmp_path / "mine.py"
    script.write_text(
        "import massl_bench as mb\n"
        "print('begun', flush=True)\n"
        "found = mb.benchmark('pixels', tasks=['knn', 'few-shot', 'spectrum'], datasets='digits', processes=2,\n"
        "                     results_dir='r', cache_dir='c')\n"
        "print(' '.join(outcome.task + ' ' + outcome.status for outcome in found))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["begun", "knn done few-shot done spectrum done"]
    assert "2 processes, on cpu" in done.stderr
    assert numbers(tmp_path / "r" / "pixels") == alone
    asked: list[Sequence[str]] = []

    def here(
        request: RunRequest, registry: Registry, reporting: Reporting, devices: Sequence[str]
    ) -> Iterator[Outcome]:
        asked.append(devices)
        return run_request(request, registry, reporting)

    monkeypatch.setattr(local, "run_in_processes", here)
    answer = run_cli("verify", tmp_path / "r" / "pixels" / "knn" / "digits.json", "--processes", "2")
    assert answer.code == 0, answer.err
    assert asked == [["cpu", "cpu"]]
    assert "reproduced exactly" in answer.out


def test_a_plan_tells_what_the_extraction_takes(run_cli: Cli, tmp_path: Path) -> None:
    """Each bank once, whatever number of cells read it; nothing of what is there."""
    command = ["run", "--task", "knn,spectrum,kmeans", "--dataset", "digits", "--model", "pixels"]
    command += ["--cache-dir", str(tmp_path / "c"), "--limit", "train=100,test=20"]
    told = run_cli(*command, "--dry-run", "--json")
    assert len(json.loads(told.out)) == 3
    line = next(line for line in told.err.splitlines() if "to extract" in line)
    assert "to extract: 120 images, 2 banks, about " in line
    assert line.endswith(" s, told by a few of them")
    assert run_cli(*command).code == 0
    assert "to extract" not in run_cli(*command, "--dry-run").err
