"""What a training needs is told before it starts, near what it then takes; what cannot fit is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from massl_bench.core import devices
from massl_bench.core.errors import RequestError
from massl_bench.core.wording import options_are_read
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.loop import estimate
from massl_bench.pretrain.loop.estimate import check_fit, check_loading, memory_fit, needed_memory
from tests.conftest import Answer

Cli = Callable[..., Answer]

MB = 2**20
ONE = {"num_ranks": 1, "ranks_here": 1}
LARGE = [
    *("batch_size=256", "epochs=1", "views.num_local=2", "backbone.widths=32,32,32,32", "massl.memory_size=1024"),
    *("massl.block_size=1024", "massl.teacher_temp_warmup_epochs=1", "optimiser.warmup_epochs=0", "run.workers=0"),
    "run.knn_every=0",
]

MEASURED = """
import json, resource, sys
from pathlib import Path
import numpy as np
from massl_bench.datasets.splits import ArraySplit
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.loop.estimate import memory_fit
from massl_bench.pretrain.loop.trainer import TrainingJob, train
config = load_config("small-cifar10", json.loads(sys.argv[1]))
fit = memory_fit(config, num_ranks=1, ranks_here=1, device="cpu")
before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
split = ArraySplit("noise", np.zeros((256, 32, 32, 3), np.uint8), np.zeros(256, np.int64), None)
train(TrainingJob(config=config, split=split, data={}, folder=Path("run"), device="cpu"))
status = Path("/proc/self/status").read_text().splitlines()  # ru_maxrss has the parent's peak in it
after = int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024
print(json.dumps([fit.needed, after - before]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc on this system")
def test_the_memory_is_near_what_a_run_takes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, json.dumps(LARGE)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    told, taken = json.loads(done.stdout)
    assert taken > 500 * MB
    assert told == pytest.approx(taken, rel=0.3)


def test_what_the_memory_is_made_of() -> None:
    """By hand: student, teacher, gradients and AdamW's two numbers of 252,480 parameters; 1,024 rows of the memory."""
    config = load_config("tiny-digits", ["run.workers=3"])
    needed = needed_memory(config, num_ranks=1, device="cpu")
    parameters = 252_480
    assert needed.lasting == pytest.approx(4 * (5 * parameters + 1024 * 64), rel=1e-4)
    assert needed.views == 3 * 2 * 64 * 3 * (2 * 8 * 8 + 2 * 4 * 4)
    # A row of 64 images less: activations halve; the loss's buffers do not wholly.
    half = needed_memory(config, num_ranks=2, device="cpu")
    assert half.lasting == needed.lasting
    assert 0.45 < half.step / needed.step < 0.6
    pieces = load_config("tiny-digits", ["compute.accumulation=2"])
    assert needed_memory(pieces, num_ranks=1, device="cpu").step == half.step


@pytest.mark.parametrize(("preset", "shares"), [("tiny-digits", (0.3, 0.7)), ("small-cifar10", (0.3,))])
def test_the_advice_works(monkeypatch: pytest.MonkeyPatch, preset: str, shares: tuple[float, ...]) -> None:
    """Whatever is free, what the error says fits, or it says that nothing of this kind does."""
    config = load_config(preset, ["run.workers=0"])
    whole = memory_fit(config, device="cpu", **ONE)
    for share in shares:
        free = int(whole.lasting + whole.step * share)
        monkeypatch.setattr(estimate, "free_memory", lambda _, free=free: free)
        with options_are_read(), pytest.raises(RequestError) as caught:
            check_fit(memory_fit(config, device="cpu", **ONE), config, **ONE)
        settings = re.findall(r"--set (\S+)", str(caught.value))
        assert settings, caught.value
        less = memory_fit(load_config(preset, ["run.workers=0", *settings]), device="cpu", **ONE)
        assert less.fits
    monkeypatch.setattr(estimate, "free_memory", lambda _: whole.lasting - 1)
    with pytest.raises(RequestError, match="give a smaller backbone, smaller views or a smaller state of the method"):
        check_fit(memory_fit(config, device="cpu", **ONE), config, **ONE)


COMMAND = ("pretrain", "--dataset", "digits", "--preset", "tiny-digits", "--name", "mine", "--device", "cpu")
SHORT = [
    part
    for change in ("batch_size=512", "epochs=1", "massl.teacher_temp_warmup_epochs=1", "optimiser.warmup_epochs=0")
    for part in ("--set", change)
]


def test_too_little_memory_is_refused_and_force_starts(run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "free_memory", lambda _: 100 * MB)
    answer = run_cli(*COMMAND, *SHORT)
    assert answer.code == 2
    assert re.search(r"needs about \d+ MB of memory on cpu, and 100 MB are free; give .*, or --force", answer.error)
    assert not Path("weights").exists()
    assert run_cli(*COMMAND, *SHORT, "--dry-run").code == 2
    assert run_cli(*COMMAND, *SHORT, "--force").code == 0


def test_dry_run(run_cli: Cli) -> None:
    answer = run_cli(*COMMAND, "--dry-run", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert (told["images"], told["steps"]) == (1347, 30 * (1347 // 64))
    assert told["config"]["massl"]["memory_size"] == 1024
    assert 200 * MB < told["memory_bytes"] < 300 * MB
    assert told["hours"] * 3600 == pytest.approx(told["steps"] * (told["step_s"] + told["views_s"]))
    assert not Path("weights").exists()
    lines = run_cli(*COMMAND, "--dry-run").out.splitlines()
    assert "massl.memory_size: 1024" in lines
    assert "steps: 630 of 64 images, in 30 epochs of 1,347 images" in lines
    assert lines[-1].startswith("time: about ")


def test_dry_run_of_a_dataset_that_is_not_here(run_cli: Cli) -> None:
    """The number of images stands in the dataset's file; nothing is fetched."""
    command = [part if part != "digits" else "cifar10" for part in COMMAND]
    told = json.loads(run_cli(*command, "--dry-run", "--json").out)
    assert (told["images"], told["views_s"]) == (50_000, None)


def test_the_time_of_a_step_is_a_line_through_the_last_two(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def line(_: Any, images: int, __: Any) -> float:
        seen.append(images)
        return 0.5 + 0.01 * images

    monkeypatch.setattr(estimate, "_time_step", line)
    config = load_config("tiny-digits", ["batch_size=512"])
    assert estimate.seconds_a_step(config, num_ranks=1, device="cpu") == pytest.approx(0.5 + 5.12)
    assert seen == [2, 8, 32, 128]  # which takes longer than a second
    seen.clear()
    config = load_config("tiny-digits", ["compute.accumulation=8"])
    assert estimate.seconds_a_step(config, num_ranks=1, device="cpu") == pytest.approx(8 * (0.5 + 0.08))
    assert seen == [2, 8]
    # Kernels are compiled for each number of images: a GPU takes the step as it will be.
    seen.clear()
    monkeypatch.setattr(estimate.torch.random, "fork_rng", lambda _: nullcontext())
    assert estimate.seconds_a_step(config, num_ranks=1, device="cuda:0") == pytest.approx(8 * (0.5 + 0.08))
    assert seen == [8]


@pytest.mark.speed
def test_the_time_is_near_what_a_run_takes(run_cli: Cli) -> None:
    told = json.loads(run_cli(*COMMAND, "--dry-run", "--json").out)
    assert run_cli(*COMMAND).code == 0
    log = [json.loads(line) for line in Path("weights/mine/log.jsonl").read_text().splitlines()]
    assert told["hours"] * 3600 / told["steps"] == pytest.approx(64 / log[len(log) // 2]["images_per_s"], rel=0.5)


def test_a_small_shared_memory_is_told_before_workers_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(devices.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 64 * MB}))
    published = load_config("massl-vits16-800ep")
    with pytest.raises(RequestError, match=r"64 MB free, and 12 loader processes need about 1\.7 GB .*shm-size=3g"):
        check_loading(published, **ONE)
    check_loading(load_config("massl-vits16-800ep", ["run.workers=0"]), **ONE)
    check_loading(load_config("tiny-digits", ["run.workers=8"]), **ONE)


def test_what_a_container_leaves(tmp_path: Path) -> None:
    files = {"memory.max": "1000\n", "memory.current": "900\n", "memory.stat": "anon 500\ninactive_file 300\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    names = ("memory.max", "memory.current", "inactive_file")
    assert list(devices._left_in(tmp_path, *names)) == [400]
    (tmp_path / "memory.max").write_text("max\n")
    assert list(devices._left_in(tmp_path, *names)) == []
    assert list(devices._left_in(tmp_path / "gone", *names)) == []
    assert 0 < devices.free_memory("cpu") <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_presets_are_listed(run_cli: Cli) -> None:
    lines = run_cli("list", "presets").out.splitlines()
    assert [line.split()[0] for line in lines][-2:] == ["sop-vits16-100ep", "tiny-digits"]
    shown = run_cli("info", "massl-vits16-800ep").out.splitlines()
    assert shown[0] == "type: preset"
    assert "massl.memory_size: 131072" in shown
    told = json.loads(run_cli("info", "carp-rn50-100ep", "--json").out)
    assert (told["type"], told["carp"]["num_prototypes"]) == ("preset", 65_536)
    assert "did you mean tiny-digits" in run_cli("info", "tiny-digit").error
