"""A run that is killed and resumed is the uninterrupted one, bit for bit."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from massl_bench.core import files
from massl_bench.core.errors import RequestError
from massl_bench.datasets.published import READERS
from massl_bench.datasets.splits import ArraySplit
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.loop import checkpoint as checkpoint_module
from massl_bench.pretrain.loop.log import read_log
from massl_bench.pretrain.loop.trainer import Trained, TrainingJob, train
from tests.started import forkserver

STEPS, BATCH = 42, 16  # one epoch
SETTINGS = [
    f"batch_size={BATCH}",
    "epochs=1",
    "backbone.depth=2",
    "backbone.drop_path=0.2",
    "massl.memory_size=256",
    "massl.block_size=64",
    "massl.teacher_temp_warmup_epochs=1",
    "optimiser.warmup_epochs=0",
    "run.checkpoint_every=4",
    "run.keep_checkpoints=2",
    "run.log_every=1",
    "run.knn_every=0",
]


def run(folder: Path, *settings: str, resume: bool = True, **changes: Any) -> Trained:
    config = load_config("tiny-digits", [*SETTINGS, *settings])
    digits = READERS["digits"].read(Path(), "train")
    pixels = np.stack(digits.encoded(range(STEPS * BATCH)))  # type: ignore[arg-type]
    split = ArraySplit("digits", pixels, digits.labels[: len(pixels)], None)  # type: ignore[arg-type]
    job = TrainingJob(
        config=config, split=split, data={"reference": "digits"}, folder=folder, device="cpu", resume=resume, **changes
    )
    return train(job)


def kill_during_write(number: int) -> None:
    """Lets the process die in the middle of its nth checkpoint, when the bytes are written and the name is not."""
    count = 0

    def fsync(descriptor: int) -> None:
        nonlocal count
        count += "checkpoint-" in str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    files.os = type("os", (), {**vars(os), "fsync": staticmethod(fsync)})  # type: ignore[assignment]


def work(folder: Path, writes: int, workers: int) -> None:
    torch.set_num_threads(1)
    # As from a shell: workers of this process then, not of the server, which end when their parent is gone.
    multiprocessing.set_start_method("fork", force=True)
    if writes:
        kill_during_write(writes)
    run(folder, f"run.workers={workers}")


@pytest.fixture(scope="module")
def start() -> Callable[..., Any]:
    """Starts runs as processes of their own."""
    context = forkserver()

    def start(folder: Path, writes: int = 0, workers: int = 0) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=work, args=(folder, writes, workers))
        process.start()
        return process

    return start


def ended(process: Any) -> int:
    process.join(timeout=240)
    return process.exitcode


def wait_for(process: Any, folder: Path, step: int) -> None:
    limit = time.monotonic() + 120
    while not any(line["step"] >= step for line in read_log(folder)):
        assert time.monotonic() < limit
        assert process.is_alive()
        time.sleep(0.01)


def kill_at(process: Any, folder: Path, step: int) -> None:
    """Kills a run some time after a step was logged: in the middle of whatever it does then."""
    wait_for(process, folder, step)
    process.kill()
    assert ended(process) == -signal.SIGKILL


def content(folder: Path, step: int) -> Any:
    return checkpoint_module.CheckpointFolder(folder, 1).load(step)


def losses(folder: Path) -> list[tuple[int, float, float]]:
    return [(line["step"], line["loss"], line["rankme"]) for line in read_log(folder)]


@pytest.fixture(scope="module")
def uninterrupted(start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert ended(start(folder)) == 0
    return folder


def assert_same(a: Any, b: Any, where: str = "checkpoint") -> None:
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{index}]")
    else:
        assert a == b, where


def test_killed_at_several_moments(start: Any, uninterrupted: Path, tmp_path: Path) -> None:
    """Killed before or after the first checkpoint, between two, while one is written, and later; once with workers."""
    folder = tmp_path / "killed"
    kill_at(start(folder), folder, 1)
    kill_at(start(folder, workers=2), folder, 9)
    # From step 8: the file of step 12, then that of step 16.
    assert ended(start(folder, writes=2)) == -signal.SIGKILL
    assert checkpoint_module.CheckpointFolder(folder, 1).steps()[-1] == 12
    kill_at(start(folder), folder, 30)
    assert ended(start(folder)) == 0

    assert losses(folder) == losses(uninterrupted)
    assert [step for step, *_ in losses(folder)] == list(range(STEPS))
    ours, expected = content(folder, STEPS), content(uninterrupted, STEPS)
    for each in (ours, expected):
        each["config"].pop("run")
    assert_same(ours, expected)
    assert expected["method"]["pointer"] == STEPS * BATCH % 256
    assert checkpoint_module.CheckpointFolder(folder, 1).steps() == [40, 42]
    assert not list(folder.glob(".*.tmp"))


def test_two_of_one_name_at_once(
    start: Any, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "_LEFT_OVER_S", 0.0)
    folder = tmp_path / "mine"
    process = start(folder)
    wait_for(process, folder, 1)
    os.kill(process.pid, signal.SIGSTOP)  # a fast machine would be done with its steps before the other one has begun
    with pytest.raises(RequestError, match=r"mine: another training of this name is going on; choose another name"):
        run(folder)
    os.kill(process.pid, signal.SIGCONT)
    assert ended(process) == 0
    assert losses(folder) == losses(uninterrupted)


def test_finished_run_resumes_to_nothing(uninterrupted: Path) -> None:
    trained = run(uninterrupted)
    assert (trained.step, trained.finished) == (STEPS, True)
    expected = content(uninterrupted, STEPS)["teacher"]["backbone.cls_token"]
    assert torch.equal(trained.backbone.cls_token, expected)  # type: ignore[arg-type]
