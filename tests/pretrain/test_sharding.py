"""Two real gloo ranks: DDP and FSDP are one process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from massl_bench.core.files import sha256_of
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.configure import checked_config, load_config
from massl_bench.pretrain.loop import trainer
from massl_bench.pretrain.loop.checkpoint import Checkpoint, CheckpointFolder
from massl_bench.pretrain.loop.estimate import needed_memory
from massl_bench.pretrain.loop.state import TrainingState, initial_network
from tests.pretrain.runs import WHOLE_IMAGES, carp_of, losses, run
from tests.pretrain.test_sop import TINY
from tests.started import become_rank, free_port, run_ranks

STEPS, CUT = 4, 2
FSDP = "compute.parallel=fsdp"
KEPT = ["run.checkpoint_every=2", "run.keep_checkpoints=9"]


def massl(*settings: str) -> PretrainConfig:
    return load_config("tiny-digits", [*WHOLE_IMAGES, "backbone.depth=1", *KEPT, *settings])


def lars(*settings: str) -> PretrainConfig:
    """CARP with LARS, whose steps need the norm of each whole parameter and gradient."""
    content = carp_of(massl(*settings)).model_dump(mode="json")
    content["optimiser"] |= {"name": "lars", "momentum": 0.9, "eta": 0.02, "betas": None, "lr": 2.0}
    return checked_config(content, "test")


def sop(*settings: str) -> PretrainConfig:
    return load_config("tiny-digits", [*TINY, "epochs=1", *KEPT, *settings])


CASES: Mapping[str, Callable[[], PretrainConfig]] = {
    "ddp": massl,
    "fsdp": lambda: massl(FSDP),
    "checkpointed": lambda: massl(FSDP, "compute.gradient_checkpointing=true", "compute.accumulation=2"),
    "lars": lambda: lars(FSDP),
    "sop-ddp": sop,
    "sop-fsdp": lambda: sop(FSDP),
}
COMPILED: Mapping[str, Callable[[], PretrainConfig]] = {
    "compiled": lambda: massl(FSDP, "compute.compile=true"),
    "compiled-checkpointed": lambda: massl(FSDP, "compute.compile=true", "compute.gradient_checkpointing=true"),
}
RESUMED = {"ddp-then-fsdp": ("ddp", "fsdp"), "fsdp-then-fsdp": ("fsdp", "fsdp")}


def cut_short(whole: Path, folder: Path) -> None:
    """Makes a folder as it was when the first half was done."""
    folder.mkdir()
    shutil.copy(CheckpointFolder(whole, 9).path(CUT), folder)


def work(rank: int, port: int, folder: Path, part: str) -> None:
    become_rank(rank, port)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    states: list[TrainingState] = []
    begin = trainer.initial_state

    def noted(*arguments: Any) -> TrainingState:
        states.append(begin(*arguments))
        return states[-1]

    trainer.initial_state = noted  # type: ignore[assignment]
    if part == "compiled":
        for name in COMPILED:
            run(folder / name, COMPILED[name](), STEPS)
        dist.destroy_process_group()
        return
    for name in CASES:
        run(folder / name, CASES[name](), STEPS)
    for name, (before, after) in RESUMED.items():
        if rank == 0:
            cut_short(folder / before, folder / name)
        dist.barrier()
        run(folder / name, CASES[after](), STEPS, resume=True)
    held = [
        sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in s.student.parameters())
        for s in states
    ]
    torch.save({"method": [state.method.state_dict() for state in states], "held": held}, folder / f"rank{rank}.pt")
    teachers = [sha256_of([p.tolist() for p in state.teacher.parameters()]) for state in states]
    (folder / f"teachers{rank}.txt").write_text("\n".join(teachers))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(work, free_port(), folder, "plain")
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("single")
    run(folder / "massl", massl(), STEPS)
    run(folder / "lars", lars(), STEPS)
    return folder


def last(folder: Path) -> Checkpoint:
    return CheckpointFolder(folder, 9).load(STEPS)


def assert_close(found: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float) -> None:
    """Passes over the biases of queries, keys and values: that of the keys has no gradient but rounding, which AdamW
    scales to steps as long as others.
    """
    assert found.keys() == expected.keys()
    for name, value in found.items():
        if tolerance and str(name).endswith("qkv.bias"):
            continue
        if isinstance(value, Tensor):
            torch.testing.assert_close(value, expected[name], rtol=tolerance, atol=tolerance)
        elif isinstance(value, Mapping):
            assert_close(value, expected[name], tolerance)


@pytest.mark.parametrize(
    ("name", "expected"), [("ddp", "massl"), ("fsdp", "massl"), ("checkpointed", "massl"), ("lars", "lars")]
)
def test_the_losses_are_those_of_one_process(name: str, expected: str, ranks: Path, single: Path) -> None:
    found = losses(ranks / name)
    assert len(set(found)) == STEPS
    assert found == pytest.approx(losses(single / expected), rel=1e-5)


@pytest.mark.cluster  # a minute of compiling
def test_compiled_losses_are_those_of_one_process(single: Path, tmp_path: Path) -> None:
    if shutil.which("c++") is None:
        pytest.skip("torch.compile needs a C++ compiler for the CPU")
    run_ranks(work, free_port(), tmp_path, "compiled")
    for name in COMPILED:
        assert losses(tmp_path / name) == pytest.approx(losses(single / "massl"), rel=1e-5)


@pytest.mark.parametrize(("one", "other"), [("fsdp", "ddp"), ("sop-fsdp", "sop-ddp")])
def test_a_checkpoint_is_whole_and_the_same(one: str, other: str, ranks: Path) -> None:
    """Networks, the optimizer's numbers and the method's state, under one layout; two ranks add in one order only."""
    found, expected = last(ranks / one), last(ranks / other)
    assert found["config"]["compute"].pop("parallel") == "fsdp"
    assert expected["config"]["compute"].pop("parallel") == "ddp"
    assert found["config"] == expected["config"]
    for part in ("student", "teacher", "method"):
        assert_close(found[part], expected[part], 1e-5)
    assert_close(found["optimiser"]["state"], expected["optimiser"]["state"], 1e-5)
    assert all(type(tensor) is Tensor for tensor in found["student"].values())


def test_the_weights_of_lars_are_those_of_one_process(ranks: Path, single: Path) -> None:
    found, expected = last(ranks / "lars")["student"], last(single / "lars")["student"]
    assert_close(found, expected, 1e-4)
    before = CheckpointFolder(single / "lars", 9).load(CUT)["student"]
    moved = max(float((tensor - before[name]).abs().max()) for name, tensor in expected.items())
    assert moved > 0.005


def test_each_reads_what_the_other_wrote(ranks: Path, tmp_path: Path) -> None:
    for name, (before, _) in RESUMED.items():
        assert losses(ranks / name) == pytest.approx(losses(ranks / before)[CUT:], rel=1e-5)
        assert_close(last(ranks / name)["teacher"], last(ranks / "ddp")["teacher"], 1e-5)
    whole, resumed = last(ranks / "fsdp"), last(ranks / "fsdp-then-fsdp")
    for part in ("student", "teacher", "method", "optimiser"):
        assert_close(resumed[part], whole[part], 0.0)
    cut_short(ranks / "fsdp", tmp_path / "alone")
    run(tmp_path / "alone", massl(), STEPS, resume=True)
    assert losses(tmp_path / "alone") == pytest.approx(losses(ranks / "ddp")[CUT:], rel=1e-5)


def test_memory_and_teacher_are_identical_on_every_rank(ranks: Path) -> None:
    first, second = (torch.load(ranks / f"rank{rank}.pt") for rank in range(2))
    for one, other in zip(first["method"], second["method"], strict=True):
        assert_equal(one, other)
    teachers = [(ranks / f"teachers{rank}.txt").read_text() for rank in range(2)]
    assert teachers[0] == teachers[1]
    assert len(set(teachers[0].split())) >= 4


def assert_equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, Mapping):
            assert_equal(value, other[name])
        else:
            assert torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name]


def test_each_rank_holds_its_share(ranks: Path) -> None:
    held = dict(zip(CASES, torch.load(ranks / "rank0.pt")["held"], strict=False))
    assert held["fsdp"] == held["checkpointed"] < 0.51 * held["ddp"]


def test_what_a_rank_needs_is_told() -> None:
    """By hand: weights, gradients and AdamW's two numbers, three quarters of each on three other ranks."""
    whole, share = (needed_memory(massl(*each), num_ranks=4, device="cpu") for each in ((), (FSDP,)))
    student = initial_network(massl())
    trained = sum([4 * tensor.numel() for tensor in student.parameters()])
    assert whole.lasting - share.lasting == 4 * trained * 3 // 4
    assert whole.step < share.step < whole.step + 2 * trained
    alone = (needed_memory(massl(*each), num_ranks=1, device="cpu") for each in ((), (FSDP,)))
    assert len(set(alone)) == 1
