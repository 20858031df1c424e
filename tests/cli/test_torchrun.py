"""`massl-bench pretrain` under a real torchrun, two processes on the CPU. Run as a script, this file is one of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from massl_bench import cli
from massl_bench.models.checkpoints import read_tensors
from massl_bench.pretrain.loop.checkpoint import CheckpointFolder
from massl_bench.pretrain.loop.log import read_log
from tests.started import become_rank, free_port, run_ranks

SETTINGS = [
    *("batch_size=128", "epochs=1", "backbone.depth=1", "massl.teacher_temp_warmup_epochs=1"),
    *("optimiser.warmup_epochs=0", "run.log_every=1", "run.checkpoint_every=2"),
]
STEPS = 10
KILLED = "MASSL_BENCH_TEST_KILLED"
"""RANK:STEP of each start, STEP being the number of the step in that start."""
SLOW = "MASSL_BENCH_TEST_SLOW"


def arguments(*changes: str) -> list[str]:
    settings = [part for setting in (*SETTINGS, *changes) for part in ("--set", setting)]
    command = ["pretrain", "--dataset", "digits", "--method", "massl", "--preset", "tiny-digits", "--name", "mine"]
    return [*command, "--device", "cpu", "--resume", *settings]


def torchrun(
    folder: Path, *changes: str, ranks: int = 2, restarts: int = 0, environment: Mapping[str, str] = {}
) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"),
            *(f"--max-restarts={restarts}", __file__, *arguments(*changes)),
        ],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
        | dict(environment),
        stderr=subprocess.PIPE,
        text=True,
    )


def steps_and_losses(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_log(folder / "weights" / "mine")]


def test_stopped_resumed_and_restarted(tmp_path: Path) -> None:
    """SIGTERM leaves a checkpoint, the same command goes on, a killed rank restarts all: as if nothing had been."""
    folder = tmp_path / "disturbed"
    weights = folder / "weights" / "mine"
    stopped = torchrun(folder, environment={SLOW: "1"})
    limit = time.monotonic() + 600
    while not read_log(weights):
        assert stopped.poll() is None, stopped.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    errors = stopped.communicate(timeout=300)[1]
    assert stopped.returncode != 0
    assert "stopped by SIGTERM after step" in errors
    step = len(read_log(weights))
    assert CheckpointFolder(weights, 1).steps()[-1] == step < STEPS - 3

    restarted = torchrun(folder, restarts=1, environment={KILLED: "1:3"})
    errors = restarted.communicate(timeout=600)[1]
    assert restarted.returncode == 0, errors
    assert "exitcode" in errors and "-9" in errors  # noqa: PT018  # torchrun tells of the killed rank

    (tmp_path / "whole").mkdir()
    run_ranks(run_as_rank, free_port(), tmp_path / "whole")
    found = steps_and_losses(folder)
    assert [step for step, _ in found] == list(range(STEPS))
    assert found == steps_and_losses(tmp_path / "whole")
    assert_same_weights(folder, tmp_path / "whole")


def run_as_rank(rank: int, port: int, folder: Path) -> None:
    become_rank(rank, port)
    os.chdir(folder)
    torch.set_num_threads(1)
    sys.argv = ["massl-bench", *arguments()]
    cli.main()


def assert_same_weights(folder: Path, other: Path) -> None:
    tensors, expected = (read_tensors(place / "weights" / "mine.safetensors") for place in (folder, other))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())


@pytest.mark.cluster
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_four_ranks_killed_one_after_the_other(tmp_path: Path, parallel: str) -> None:
    """Each of the four dies once, in five starts; what comes out is what four undisturbed ranks make."""
    way = f"compute.parallel={parallel}"
    whole = torchrun(tmp_path / "whole", way, ranks=4)
    error = whole.communicate(timeout=600)[1]
    assert whole.returncode == 0, error
    killed = torchrun(tmp_path / "killed", way, ranks=4, restarts=4, environment={KILLED: "2:3,0:4,3:1,1:3"})
    error = killed.communicate(timeout=1200)[1]
    assert killed.returncode == 0, error
    assert error.count("Sending process") + error.count("failed (exitcode: -9)") >= 4, error
    found = steps_and_losses(tmp_path / "killed")
    assert [step for step, _ in found] == list(range(STEPS))
    assert found == steps_and_losses(tmp_path / "whole")
    assert_same_weights(tmp_path / "killed", tmp_path / "whole")


def main() -> None:
    from massl_bench.pretrain.loop import trainer

    update, steps = trainer.update_teacher, []
    kills = [*os.environ.get(KILLED, "").split(","), *[""] * 9]
    kill = kills[int(os.environ["TORCHELASTIC_RESTART_COUNT"])]

    def disturbed(*arguments: object) -> None:
        steps.append(1)
        if kill == f"{os.environ['RANK']}:{len(steps)}":
            os.kill(os.getpid(), signal.SIGKILL)
        if SLOW in os.environ:
            time.sleep(1)
        update(*arguments)  # type: ignore[arg-type]

    trainer.update_teacher = disturbed  # type: ignore[assignment]
    torch.set_num_threads(1)
    cli.main()


if __name__ == "__main__":
    main()
