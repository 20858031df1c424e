"""Signals as a scheduler and a terminal send them: to the whole process group, workers included."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from massl_bench.pretrain.loop.checkpoint import CheckpointFolder
from massl_bench.pretrain.loop.log import read_log

SETTINGS = [
    *("batch_size=16", "epochs=20", "backbone.depth=1", "massl.teacher_temp_warmup_epochs=1"),
    *("massl.memory_size=256", "massl.block_size=64", "run.workers=2", "run.log_every=1", "run.checkpoint_every=10000"),
]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_to_the_group_ends_a_run_with_workers(tmp_path: Path, number: signal.Signals, code: int) -> None:
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "massl_bench", "pretrain", "--dataset", "digits", "--method", "massl"),
            *("--preset", "tiny-digits", "--name", "mine", "--device", "cpu", *settings),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    limit = time.monotonic() + 240
    folder = tmp_path / "weights" / "mine"
    while len(read_log(folder)) < 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.05)
    os.killpg(process.pid, number)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == code, error
    assert "Traceback" not in error
    steps = CheckpointFolder(folder, 1).steps()
    if number == signal.SIGINT:
        assert re.search(r"error: interrupted after step \d+; no checkpoint was written yet; the same command", error)
        assert "finished cells" not in error
    assert steps == ([len(read_log(folder))] if number == signal.SIGTERM else [])
