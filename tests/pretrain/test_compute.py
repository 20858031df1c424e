"""Every way of computing a step gives the plain one's losses, on the CPU and through the trainer."""

from __future__ import annotations

import shutil
from collections import Counter
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from massl_bench.core.errors import RequestError
from massl_bench.pretrain import compute
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.data import fused
from massl_bench.pretrain.loop.checkpoint import CheckpointFolder
from massl_bench.pretrain.loop.state import initial_network
from massl_bench.pretrain.methods import massl
from tests.pretrain.runs import A_HUNDRED_STEPS, WHOLE_IMAGES, carp_of, falls, losses, run
from tests.started import run_ranks

STEPS = 12


def config_of(method: str, *settings: str) -> PretrainConfig:
    config = load_config("tiny-digits", [*WHOLE_IMAGES, *settings])
    return config if method == "massl" else carp_of(config)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    folder = tmp_path_factory.mktemp("plain")
    run(folder, load_config("tiny-digits", WHOLE_IMAGES), STEPS)
    found = losses(folder)
    assert len(set(found)) == STEPS
    return found


def test_accumulation(plain: Any, tmp_path: Path) -> None:
    """The loss is a mean over images, and so is its gradient: sums in another order, in float32."""
    run(tmp_path, load_config("tiny-digits", [*WHOLE_IMAGES, "compute.accumulation=4"]), STEPS)
    assert losses(tmp_path) == pytest.approx(plain, rel=1e-5)


def test_channels_last(plain: Any, tmp_path: Path) -> None:
    """The same convolution in another order of memory."""
    run(tmp_path, load_config("tiny-digits", [*WHOLE_IMAGES, "compute.channels_last=true"]), STEPS)
    assert losses(tmp_path) == pytest.approx(plain, rel=1e-5)


def test_gradient_checkpointing(tmp_path: Path) -> None:
    """The blocks are computed twice with the same draws of stochastic depth: not a bit differs."""
    settings = [*WHOLE_IMAGES, "backbone.drop_path=0.3"]
    for name in ("false", "true"):
        run(tmp_path / name, load_config("tiny-digits", [*settings, f"compute.gradient_checkpointing={name}"]), STEPS)
    assert losses(tmp_path / "true") == losses(tmp_path / "false")


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on the CPU: none found")
def test_compile(tmp_path: Path) -> None:
    """Fused kernels round in other places; two sizes of views, and both with and without gradients."""
    settings = [*WHOLE_IMAGES, "backbone.depth=1", "views.num_local=1"]
    for name in ("false", "true"):
        run(tmp_path / name, load_config("tiny-digits", [*settings, f"compute.compile={name}"]), 4)
    assert losses(tmp_path / "true") == pytest.approx(losses(tmp_path / "false"), rel=1e-4)


def scaled_by(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Lets the scaler of fp16 start at another factor than 65,536, at which the first gradients overflow."""
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=factor))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """bf16 keeps 8 bits and fp16 11; logits are divided by 0.07, so that the loss moves by some thousandths."""
    scaled_by(monkeypatch, 256.0)
    run(tmp_path, load_config("tiny-digits", [*WHOLE_IMAGES, f"compute.precision={precision}"]), STEPS)
    assert losses(tmp_path) == pytest.approx(plain, rel=0.01)
    assert losses(tmp_path) != plain
    assert bool(CheckpointFolder(tmp_path, 1).load(STEPS)["scaler"]) == (precision == "fp16")


def test_gradients_that_overflow_in_fp16_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scaled_by(monkeypatch, 2.0**40)
    config = load_config("tiny-digits", [*WHOLE_IMAGES, "compute.precision=fp16"])
    run(tmp_path, config, 1)
    checkpoint = CheckpointFolder(tmp_path, 1).load(1)
    assert checkpoint["scaler"]["scale"] == 2.0**39
    before = initial_network(config).state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in checkpoint["student"].items())


def test_a_hundred_steps_in_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = massl.massl_objective

    def objective(student: Tensor, teacher: Tensor, memory: Tensor, *rest: Any, **settings: Any) -> Tensor:
        seen.append((student.dtype, teacher.dtype, memory.dtype, type(settings["teacher_temp"])))
        loss = original(student, teacher, memory, *rest, **settings)
        seen.append(loss.dtype)  # type: ignore[arg-type]
        return loss

    monkeypatch.setattr(massl, "massl_objective", objective)
    trained = run(tmp_path, load_config("tiny-digits", [*A_HUNDRED_STEPS, "compute.precision=bf16"]), 21)
    assert trained.step == 105
    # The rows leave the network scaled to unit length in float32, and the objective stays there.
    assert set(seen) == {(torch.float32, torch.float32, torch.float32, float), torch.float32}
    assert all(parameter.dtype == torch.float32 for parameter in trained.backbone.parameters())
    assert falls(losses(tmp_path))


class Waits(TorchDispatchMode):
    """Counts the operators that read a tensor's value: on a GPU the host waits there."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket._qualified_op_name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["massl", "carp"])
def test_a_step_waits_for_no_parameter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """A deeper network has more parameters, and a step of it reads as few values."""
    adamw = torch.optim.AdamW  # fused, as on a GPU; on the CPU the other one reads each parameter's own step
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, **rest: adamw(groups, **{**rest, "fused": True}))
    waits = []
    for depth in (1, 3):
        counts = []
        for steps in (2, 4):
            with Waits() as counted:
                config = config_of(method, f"backbone.depth={depth}", "run.log_every=100")
                run(tmp_path / f"{depth}-{steps}", config, steps)
            counts.append(counted.counts["aten::_local_scalar_dense"] + counted.counts["aten::equal"])
        waits.append((counts[1] - counts[0]) / 2)
    assert waits[0] == waits[1]


@pytest.mark.parametrize("method", ["massl", "carp"])
def test_two_ranks_are_one_process(tmp_path: Path, method: str) -> None:
    """The same global batches: each step's loss, and so its gradients, memory and mean assignments.

    Without BatchNorm: on the CPU each rank normalises over its own images.
    """
    run_ranks(train_as_rank, tmp_path, method)
    run(tmp_path / "single", config_of(method), STEPS)
    assert losses(tmp_path / "ranks") == pytest.approx(losses(tmp_path / "single"), rel=1e-5)


def train_as_rank(rank: int, folder: Path, method: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    run(folder / "ranks", config_of(method, "compute.gradient_checkpointing=true", "compute.accumulation=2"), STEPS)
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("device", "setting", "expected"),
    [
        ("cpu", "auto", False),
        ("cpu", "graphs", True),
        ("cuda", "auto", False),  # a network without patches
        ("cuda", "true", True),
        ("cuda", "graphs", "graphs"),
    ],
)
def test_what_compile_means(monkeypatch: pytest.MonkeyPatch, device: str, setting: str, expected: object) -> None:
    monkeypatch.setattr(compute, "_can_compile", lambda _: True)
    config = load_config("small-cifar10", [f"compute.compile={setting}", "compute.precision=fp32"])
    assert compute.settled(config, torch.device(device)).compute.compile == expected


def test_compile_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = load_config(
        "small-cifar10", ["compute.compile=graphs", "compute.precision=fp32", "compute.accumulation=2"]
    )
    monkeypatch.setattr(compute, "_can_compile", lambda _: True)
    with pytest.raises(RequestError, match=r"graphs, which is for one GPU and one piece, but compute.accumulation=2"):
        compute.settled(pieces, torch.device("cuda"))
    monkeypatch.setattr(compute, "_can_compile", lambda _: False)
    asked = load_config("small-cifar10", ["compute.compile=true", "compute.precision=fp32"])
    for device, missing in (("cpu", r"a C\+\+ compiler"), ("cuda", "Triton")):
        with pytest.raises(RequestError, match=f"compile: true, and torch.compile finds no .*install {missing}"):
            compute.settled(asked, torch.device(device))


def test_many_sizes_of_batches_stay_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch gives up after eight shapes of a function, and says so in a warning: here each size has its graph."""
    graphs: list[int] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(1)
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    twice = fused._compiled.__wrapped__(lambda rows: 2 * rows)
    for count in range(2, 14):
        twice(torch.ones(count))
    assert len(graphs) == 12
