"""TensorBoard and Weights & Biases hold what the log holds, each step once, also after a killed process."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from massl_bench.core.errors import CellError, RequestError
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.loop import trackers
from massl_bench.pretrain.loop.log import TrainingLog, read_log
from tests.conftest import Cli

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None,
    reason="tensorboard is not installed: pip install massl-bench[track]",
)
needs_wandb = pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="wandb is not installed: pip install massl-bench[track]"
)


def write_steps(folder: Path, first: int, last: int, *settings: str, error: type[Exception] | None = None) -> None:
    """One process of a run of ten steps; it logs the steps from `first` up to, not including, `last`."""
    config = load_config("tiny-digits", list(settings))
    with TrainingLog(folder, config, num_steps=10, first_step=first, active=True) as log:
        for step in range(first, last):
            log.write(step, {"loss": 1 / (step + 1), "knn": math.nan if step == 2 else step / 7})
        if error is not None:
            raise error


@needs_tensorboard
def test_tensorboard_shows_the_log(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_steps(tmp_path, 0, 7)
    write_steps(tmp_path, 4, 10)  # the process before was killed; its last checkpoint is of step 4
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = read_log(tmp_path)
    assert [line["step"] for line in lines] == list(range(10))
    assert set(events.Tags()["scalars"]) == {"loss", "knn", "images_per_s", "waiting"}
    for name in events.Tags()["scalars"]:
        drawn = [(event.step, None if math.isnan(event.value) else event.value) for event in events.Scalars(name)]
        # TensorBoard keeps float32.
        assert drawn == [
            (line["step"], None if line[name] is None else pytest.approx(line[name], rel=1e-6)) for line in lines
        ]


class StandIn(ModuleType):
    """wandb's interface as far as it is used; remembers every call."""

    Error = type("Error", (Exception,), {})

    def __init__(self, failure: str | None = None) -> None:
        super().__init__("wandb")
        self.__spec__ = SimpleNamespace(name="wandb")  # type: ignore[assignment]
        self.runs: list[dict[str, Any]] = []
        self._failure = failure

    def init(self, **settings: Any) -> Any:
        if self._failure is not None:
            raise self.Error(self._failure)
        run: dict[str, Any] = {**settings, "steps": [], "ended": None}
        self.runs.append(run)
        return SimpleNamespace(
            log=lambda values, step: run["steps"].append((step, values)),
            finish=lambda exit_code: run.update(ended=exit_code),
        )


def test_wandb_gets_every_step_once_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with pytest.raises(KeyboardInterrupt):
        write_steps(tmp_path / "mine", 0, 7, "run.wandb=digits", error=KeyboardInterrupt)  # type: ignore[arg-type]
    write_steps(tmp_path / "mine", 4, 10, "run.wandb=digits")
    first, second = wandb.runs
    assert (first["project"], first["name"], first["resume"]) == ("digits", "mine", "allow")
    assert first["config"]["optimiser"]["lr"] == 0.008
    assert first["id"] == second["id"]
    assert (first["ended"], second["ended"]) == (1, 0)
    assert [step for step, _ in first["steps"]] == list(range(7))
    assert [step for step, _ in second["steps"]] == [7, 8, 9]
    write_steps(tmp_path / "other", 0, 1, "run.wandb=digits")
    assert wandb.runs[2]["id"] != first["id"]


def test_wandb_from_a_resume_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was sent before: everything that this process computes is."""
    wandb = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    write_steps(tmp_path, 0, 7)
    write_steps(tmp_path, 4, 10, "run.wandb=digits")
    assert [step for step, _ in wandb.runs[0]["steps"]] == list(range(4, 10))


def test_wandb_that_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", StandIn("api_key not\nconfigured"))
    with pytest.raises(RequestError, match=r"run\.wandb: digits: api_key not configured; wandb login, or WANDB_MODE"):
        write_steps(tmp_path, 0, 1, "run.wandb=digits")


@needs_wandb
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    write_steps(tmp_path, 0, 7, "run.wandb=digits")
    write_steps(tmp_path, 4, 10, "run.wandb=digits")
    name = (tmp_path / "wandb-id").read_text()
    kept = list((tmp_path / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    assert kept
    assert all(file.stat().st_size > 0 for file in kept)


def test_wandb_that_is_not_installed(run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        trackers.importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find_spec(name, *rest)
    )
    answer = run_cli(
        *("pretrain", "--dataset", "digits", "--method", "massl", "--preset", "tiny-digits", "--wandb", "digits")
    )
    assert answer.code == 2
    assert "run.wandb: digits, but wandb is not installed; pip install 'massl-bench[track]'" in answer.error
    assert not Path("weights").exists()


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    config: PretrainConfig = load_config("tiny-digits")
    with TrainingLog(tmp_path, config, num_steps=1, first_step=0, active=True) as log:
        (tmp_path / "log.jsonl").unlink()
        (tmp_path / "log.jsonl").mkdir()
        with pytest.raises(
            CellError, match=r"the log could not be written: .*; make it writable and go on with resume=True"
        ):
            log.write(0, {"loss": 1.0})


def test_an_evaluation_is_not_training_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("massl_bench.pretrain.loop.log.time.monotonic", lambda: now[0])
    config = load_config("tiny-digits", [])
    with TrainingLog(tmp_path, config, num_steps=10, first_step=0, active=True) as log:
        now[0] += 2
        with log.untimed():
            now[0] += 100
        log.write(0, {"loss": 1.0})
    assert read_log(tmp_path)[0]["images_per_s"] == config.batch_size / 2


def test_the_live_line_fits_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    write_steps(tmp_path, 0, 3)
    lines = capsys.readouterr().err.split("\r\x1b[K")[1:]
    assert [line[:11] for line in lines] == ["step 1/10, ", "step 2/10, ", "step 3/10, "]
    assert max(map(len, lines)) == 39


def test_the_step_that_compiles_is_told_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("massl_bench.pretrain.loop.log.time.monotonic", lambda: now[0])
    config = load_config("tiny-digits", ["batch_size=64", "compute.compile=true"])
    with TrainingLog(tmp_path, config, num_steps=10, first_step=0, active=True) as log:
        now[0] = 80.0
        log.step_done(0, written=False)
        now[0] = 82.0
        log.step_done(1, written=False)
        log.write(4, {"loss": 1.0})
    assert read_log(tmp_path)[0]["images_per_s"] == pytest.approx(4 * 64 / 2)
    assert "compile: the first step took 80 s\n" in capsys.readouterr().err
