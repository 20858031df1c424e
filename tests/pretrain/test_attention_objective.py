"""MaSSL's objective by fused attention in float16, against float32: numbers, memory, and how it is chosen and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from massl_bench.core.errors import RequestError
from massl_bench.pretrain import massl_objective
from massl_bench.pretrain.compute import settled
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.loop.checkpoint import CheckpointFolder, check_same_run
from massl_bench.pretrain.loop.estimate import _Living
from massl_bench.pretrain.losses import attention
from massl_bench.pretrain.losses.attention import expect_by_attention
from tests.pretrain.runs import WHOLE_IMAGES, losses, run

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
SETTINGS: dict[str, Any] = {"student_temp": 0.1, "teacher_temp": 0.07}


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def made(views: int, images: int, dim: int, size: int, *, noise: float) -> list[Tensor]:
    """Random rows; with little noise, the views of an image are near each other and near a row of the memory."""
    generator = torch.Generator().manual_seed(0)
    memory = unit(torch.randn(size, dim, generator=generator))
    rows = []
    for count in (views, 2):
        away = unit(torch.randn(count * images, dim, generator=generator))
        rows.append(unit((1 - noise) * memory[:images].repeat(count, 1) + noise * away))
    return [*rows, memory, torch.randperm(size, generator=generator)]


def loss_and_gradient(student: Tensor, *rest: Tensor, **settings: Any) -> tuple[float, Tensor]:
    student = student.detach().requires_grad_()
    loss = massl_objective(student, *rest, **settings)
    loss.backward()
    assert student.grad is not None
    return loss.item(), student.grad


@pytest.mark.parametrize(
    ("views", "images", "dim", "size", "block_size", "times"),
    [
        (4, 32, 256, 8192, 2048, 1),
        (2, 64, 64, 4096, 4096, 1),  # one block
        (3, 32, 20, 999, 333, 2),  # a width that kernels take padded, odd sizes; errors average over less
    ],
)
@pytest.mark.parametrize(("noise", "bar"), [(1.0, 1e-5), (0.5, 2e-4)])
@pytest.mark.parametrize("teacher_temp", [0.07, 0.04])
def test_within_the_bars_of_float32(
    views: int,
    images: int,
    dim: int,
    size: int,
    block_size: int,
    times: int,
    noise: float,
    bar: float,
    teacher_temp: float,
) -> None:
    inputs = made(views, images, dim, size, noise=noise)
    settings = {**SETTINGS, "teacher_temp": teacher_temp, "block_size": block_size}
    loss, gradient = loss_and_gradient(*inputs, **settings)
    half_loss, half_gradient = loss_and_gradient(*inputs, **settings, by_attention=True)
    assert half_loss == pytest.approx(loss, rel=bar * times)
    assert 0 < (half_gradient - gradient).norm() <= 5e-4 * times * gradient.norm()


def test_of_rows_that_have_much_in_common() -> None:
    """Around the blocks' centres: float16 keeps three digits of what all rows share, and fewer of the rest."""
    student, teacher, memory, permutation = made(4, 16, 64, 2048, noise=1.0)
    common = unit(torch.ones(1, 64))
    inputs = [*(unit(rows + 3 * common) for rows in (student, teacher, memory)), permutation]
    loss, gradient = loss_and_gradient(*inputs, **SETTINGS, block_size=512)
    half_loss, half_gradient = loss_and_gradient(*inputs, **SETTINGS, block_size=512, by_attention=True)
    assert half_loss == pytest.approx(loss, rel=1e-5)
    assert (half_gradient - gradient).norm() <= 2e-3 * gradient.norm()


def test_blocks_that_are_gathered_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    student, _, memory, permutation = made(3, 8, 16, 640, noise=1.0)
    of = {"memory_KD": memory, "blocks_PS": permutation.view(5, 128)}
    at_once = expect_by_attention(student * 10, **of)
    monkeypatch.setattr(attention, "_GATHERED", 2 * 128 * 16)  # two, two, one
    for one, other in zip(at_once, expect_by_attention(student * 10, **of), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_memory_at_the_published_size() -> None:
    """B = 128, V = 12, K = 131,072: at most 150 MB over the inputs, counted on tensors without values."""
    with FakeTensorMode(), _Living() as living:
        student, teacher = torch.empty(12 * 128, 256, requires_grad=True), torch.empty(2 * 128, 256)
        memory, permutation = torch.empty(131_072, 256), torch.empty(131_072, dtype=torch.int64)
        before = living.now
        massl_objective(
            student, teacher, memory, permutation, **SETTINGS, block_size=16_384, by_attention=True
        ).backward()
        assert 2 * 131_072 * 256 < living.peak - before <= 150e6


def test_not_a_number_reaches_the_loss() -> None:
    student, *others = made(2, 4, 16, 32, noise=1.0)
    student[0, 0] = torch.nan
    assert massl_objective(student, *others, **SETTINGS, block_size=8, by_attention=True).isnan()


def test_temperatures_that_float16_cannot_serve() -> None:
    inputs = made(2, 4, 16, 32, noise=1.0)
    with pytest.raises(ValueError, match=r"teacher_temp: 0\.01; allowed: from 0\.04, for an objective in float16"):
        massl_objective(*inputs, block_size=8, student_temp=0.1, teacher_temp=0.01, by_attention=True)
    setting = "massl.teacher_temp_start=0.01"
    with pytest.raises(RequestError, match=r"compute\.objective: attention, but massl has a temperature of 0\.01"):
        load_config("tiny-digits", [setting, "compute.objective=attention"])
    assert settled(load_config("tiny-digits", [setting, "compute.precision=bf16"]), CUDA).compute.objective == "float32"


def test_a_method_without_such_an_objective() -> None:
    with pytest.raises(
        RequestError, match=r"attention, but the method carp has no objective of that kind; give float32"
    ):
        load_config("carp-rn50-100ep", ["batch_size=128", "compute.objective=attention"])


@pytest.mark.parametrize(
    ("device", "precision", "objective"),
    [(CPU, "auto", "float32"), (CPU, "bf16", "float32"), (CUDA, "bf16", "attention"), (CUDA, "fp32", "float32")],
)
def test_what_auto_means(device: torch.device, precision: str, objective: str) -> None:
    config = settled(load_config("massl-vits16-800ep", [f"compute.precision={precision}"]), device)
    assert config.compute.objective == objective
    assert config.compute.precision == ("fp32" if precision == "auto" else precision)
    assert isinstance(config.compute.compile, bool)
    assert settled(config, CPU) == config


def test_training_by_attention_and_what_is_kept(tmp_path: Path) -> None:
    for objective in ("float32", "attention"):
        run(tmp_path / objective, load_config("tiny-digits", [*WHOLE_IMAGES, f"compute.objective={objective}"]), 6)
        kept = CheckpointFolder(tmp_path / objective, 1).load(6)["config"]["compute"]
        assert (kept["objective"], kept["precision"], kept["compile"]) == (objective, "fp32", False)
    half, full = losses(tmp_path / "attention"), losses(tmp_path / "float32")
    assert half == pytest.approx(full, rel=1e-3)  # 96 rows of 64 numbers
    assert half != full


def test_a_resume_does_not_change_the_objective(tmp_path: Path) -> None:
    config = load_config("tiny-digits", [*WHOLE_IMAGES, "run.checkpoint_every=1"])
    run(tmp_path / "a", config, 2)
    checkpoint = CheckpointFolder(tmp_path / "a", 1).load(2)
    now = settled(config, CPU).model_dump(mode="json")
    check_same_run(checkpoint, now, checkpoint["data"], "x")
    other = {**now, "compute": {**now["compute"], "objective": "attention"}}
    with pytest.raises(RequestError, match=r"compute\.objective: float32, now attention"):
        check_same_run(checkpoint, other, checkpoint["data"], "x")
    # Checkpoints of before: no objective, and `auto` where the device decided.
    old = {key: value for key, value in now["compute"].items() if key != "objective"} | {"precision": "auto"}
    checkpoint["config"]["compute"] = old
    check_same_run(checkpoint, now, checkpoint["data"], "x")
    with pytest.raises(RequestError, match=r"compute\.objective: float32, now attention"):
        check_same_run(checkpoint, other, checkpoint["data"], "x")
