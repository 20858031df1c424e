"""Checkpoints are written beside the training: no step waits for one, and each is of its own step."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from massl_bench.core.errors import CellError
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.loop import checkpoint
from massl_bench.pretrain.loop.checkpoint import CheckpointFolder
from massl_bench.pretrain.loop.log import read_log
from tests.pretrain.runs import WHOLE_IMAGES, run

STEPS = 9
CONFIG = [*WHOLE_IMAGES, "backbone.depth=1", "run.checkpoint_every=3", "run.keep_checkpoints=9"]


def test_no_step_waits_for_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one is held up until two more steps are done; what it holds is the state when it was asked for."""
    config = load_config("tiny-digits", CONFIG)
    run(tmp_path / "plain", config, STEPS)
    write, threads, waited = checkpoint.save_archive, [], []

    def slow(path: Path, content: Mapping[str, Any]) -> None:
        threads.append(threading.current_thread())
        limit = time.monotonic() + 60
        while content["step"] == 3 and len(read_log(tmp_path / "slow")) < 5:
            assert time.monotonic() < limit, "the training waits for its checkpoint"
            time.sleep(0.01)
        waited.append((content["step"], len(read_log(tmp_path / "slow"))))
        write(path, content)

    monkeypatch.setattr(checkpoint, "save_archive", slow)
    run(tmp_path / "slow", config, STEPS)
    assert threading.main_thread() not in threads
    assert [step for step, _ in waited] == [3, 6, 9]
    assert waited[0][1] >= 5
    for step in (3, 6, 9):
        plain, found = (CheckpointFolder(tmp_path / name, 9).load(step) for name in ("plain", "slow"))
        for part in ("student", "teacher"):
            for name, tensor in plain[part].items():
                assert torch.equal(found[part][name], tensor), (step, part, name)
        assert torch.equal(found["method"]["memory"], plain["method"]["memory"])
        for number, state in plain["optimiser"]["state"].items():
            assert torch.equal(found["optimiser"]["state"][number]["exp_avg"], state["exp_avg"])


def test_one_that_cannot_be_written_ends_the_run_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, failed = checkpoint.save_archive, threading.Event()

    def full(path: Path, content: Mapping[str, Any]) -> None:
        if content["step"] == 6:
            failed.set()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    check = checkpoint.CheckpointWriter.check

    def check_later(writer: checkpoint.CheckpointWriter) -> None:
        if failed.wait(0.2):  # the step that began meanwhile is the last one
            time.sleep(0.2)
        check(writer)

    monkeypatch.setattr(checkpoint, "save_archive", full)
    monkeypatch.setattr(checkpoint.CheckpointWriter, "check", check_later)
    with pytest.raises(
        CellError, match=r"checkpoint-00000006\.pth: could not be written: .*earlier checkpoints are as"
    ):
        run(tmp_path, load_config("tiny-digits", CONFIG), STEPS)
    assert CheckpointFolder(tmp_path, 9).steps() == [3]
    assert 6 <= len(read_log(tmp_path)) <= 7


def test_nothing_is_left_unwritten_when_a_run_ends_in_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint that is being written when a step fails is there afterwards."""
    write = checkpoint.save_archive

    def slow(path: Path, content: Mapping[str, Any]) -> None:
        time.sleep(0.5)
        write(path, content)

    def fail(writer: checkpoint.CheckpointWriter) -> None:
        if writer._writing is not None:
            raise ZeroDivisionError

    monkeypatch.setattr(checkpoint, "save_archive", slow)
    monkeypatch.setattr(checkpoint.CheckpointWriter, "check", fail)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, load_config("tiny-digits", CONFIG), STEPS)
    assert CheckpointFolder(tmp_path, 9).load(3)["step"] == 3
