from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.massl_objective import make_inputs, matrix_products, ours
from benchmarks.measure import peak_mb, take_turns
from massl_bench.pretrain import massl_objective
from massl_bench.pretrain.losses import massl as objectives


def plain_massl_objective(
    student: Tensor,
    teacher: Tensor,
    memory: Tensor,
    permutation: Tensor,
    *,
    block_size: int,
    student_temp: float,
    teacher_temp: float,
) -> Any:
    """The definition, term by term: one cross-entropy for each block and each pair of views."""
    num_images = len(teacher) // 2
    terms = []
    for block in memory[permutation].split(block_size):
        for j, teacher_view in enumerate(teacher.split(num_images)):
            target = (teacher_view @ block.T / teacher_temp).softmax(1)
            for i, student_view in enumerate(student.split(num_images)):
                if i != j:
                    terms.append(functional.cross_entropy(student_view @ block.T / student_temp, target))
    return torch.stack(terms).mean()


def loss_and_gradient(
    objective: Callable[..., Tensor], student: Tensor, *args: Any, **kwargs: Any
) -> tuple[float, Any]:
    student = student.detach().requires_grad_()
    loss = objective(student, *args, **kwargs)
    loss.backward()
    return loss.item(), student.grad


@pytest.fixture
def inputs(unit_rows: Callable[..., Tensor]) -> Callable[..., list[Tensor]]:
    def make(
        views: int = 3, images: int = 4, dim: int = 8, size: int = 24, dtype: torch.dtype = torch.float32
    ) -> list[Tensor]:
        permutation = torch.randperm(size, generator=torch.Generator().manual_seed(3))
        rows = [unit_rows(n * images, dim, seed=n, dtype=dtype) for n in (views, 2)]
        return [*rows, unit_rows(size, dim, seed=99, dtype=dtype), permutation]

    return make


def test_golden(golden: Callable[[str], dict[str, Any]]) -> None:
    arrays = golden("massl_objective.npz")
    loss, gradient = loss_and_gradient(
        massl_objective,
        *(arrays[name] for name in ("student", "teacher", "memory", "permutation")),
        **{name: arrays[name] for name in ("block_size", "student_temp", "teacher_temp")},
    )
    assert loss == pytest.approx(arrays["loss"], rel=1e-6)
    assert (gradient - arrays["grad_student"]).norm() <= 1e-6 * arrays["grad_student"].norm()


@pytest.mark.parametrize(
    ("shape", "block_size", "temperatures"),
    [
        ((2, 4, 8, 24), 12, (0.1, 0.07)),
        ((2, 1, 3, 5), 5, (0.1, 0.07)),  # one image, one block
        ((12, 5, 17, 99), 33, (0.1, 0.04)),  # odd sizes
        ((5, 3, 8, 1400), 700, (0.1, 0.07)),  # a block of several tiles, the last one smaller
        ((3, 4, 8, 24), 8, (2.0, 0.5)),
        ((3, 4, 8, 24), 8, (0.1, 0.01)),  # exp(1 / temperature) overflows float32
        ((5, 3, 8, 1400), 700, (0.005, 0.002)),
    ],
)
def test_equals_the_plain_formulation(
    inputs: Callable[..., list[Tensor]], monkeypatch: pytest.MonkeyPatch, shape: Any, block_size: int, temperatures: Any
) -> None:
    monkeypatch.setattr(objectives, "_TILE_BYTES", 4000)
    settings: dict[str, Any] = {
        "block_size": block_size,
        "student_temp": temperatures[0],
        "teacher_temp": temperatures[1],
    }
    student, teacher, memory, permutation = inputs(*shape)
    loss, gradient = loss_and_gradient(massl_objective, student, teacher, memory, permutation, **settings)
    doubles = [student.double(), teacher.double(), memory.double(), permutation]
    plain_loss, plain_gradient = loss_and_gradient(plain_massl_objective, *doubles, **settings)
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    assert (gradient - plain_gradient).norm() <= 1e-5 * plain_gradient.norm()


def test_gradient_by_finite_differences(inputs: Callable[..., list[Tensor]]) -> None:
    student, *others = inputs(dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda rows: massl_objective(rows, *others, block_size=8, student_temp=0.3, teacher_temp=0.2),
        student.requires_grad_(),
    )


def test_by_hand() -> None:
    """Two memory rows, both views at the first: logits (10, 0) for the student, (5, 0) for the teacher."""
    row, memory = torch.tensor([[1.0, 0.0]]), torch.eye(2)
    loss = massl_objective(
        row.repeat(2, 1), row.repeat(2, 1), memory, torch.arange(2), block_size=2, student_temp=0.1, teacher_temp=0.2
    )
    first = 1 / (1 + math.exp(-5))
    assert loss.item() == pytest.approx(math.log(math.exp(10) + 1) - first * 10, rel=1e-5)


def test_blocks_of_one_row_say_nothing(inputs: Callable[..., list[Tensor]]) -> None:
    student, *others = inputs()
    loss, gradient = loss_and_gradient(
        massl_objective, student, *others, block_size=1, student_temp=0.1, teacher_temp=0.07
    )
    assert loss == pytest.approx(0, abs=1e-6)
    assert gradient.abs().max() < 1e-6


def test_order_inside_a_block_and_order_of_blocks_do_not_matter(inputs: Callable[..., list[Tensor]]) -> None:
    settings: dict[str, Any] = {"block_size": 8, "student_temp": 0.1, "teacher_temp": 0.07}
    student, teacher, memory, permutation = inputs()
    shuffled = permutation.view(3, 8)[[2, 0, 1]].flip(1).reshape(-1)
    loss = massl_objective(student, teacher, memory, permutation, **settings)
    assert massl_objective(student, teacher, memory, shuffled, **settings).item() == pytest.approx(
        loss.item(), rel=1e-6
    )
    other_blocks = massl_objective(student, teacher, memory, torch.arange(24), **settings)
    assert abs(other_blocks.item() - loss.item()) > 1e-3


def test_only_the_student_has_a_gradient_and_it_scales_with_the_loss(inputs: Callable[..., list[Tensor]]) -> None:
    settings: dict[str, Any] = {"block_size": 8, "student_temp": 0.1, "teacher_temp": 0.07}
    student, teacher, memory, permutation = inputs()
    for tensor in (student, teacher, memory):
        tensor.requires_grad_()
    massl_objective(student, teacher, memory, permutation, **settings).backward()
    assert teacher.grad is None
    assert memory.grad is None
    once = student.grad.clone()
    student.grad = None
    (3 * massl_objective(student, teacher, memory, permutation, **settings)).backward()
    torch.testing.assert_close(student.grad, 3 * once)


def test_float32_under_autocast_and_for_half_precision_rows(inputs: Callable[..., list[Tensor]]) -> None:
    settings: dict[str, Any] = {"block_size": 8, "student_temp": 0.1, "teacher_temp": 0.07}
    student, teacher, memory, permutation = inputs()
    loss, gradient = loss_and_gradient(massl_objective, student, teacher, memory, permutation, **settings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast_loss, autocast_gradient = loss_and_gradient(
            massl_objective, student, teacher, memory, permutation, **settings
        )
    assert autocast_loss == loss
    assert torch.equal(autocast_gradient, gradient)

    half, rounded = student.bfloat16(), student.bfloat16().float()
    half_loss, half_gradient = loss_and_gradient(massl_objective, half, teacher, memory, permutation, **settings)
    rounded_loss, rounded_gradient = loss_and_gradient(
        massl_objective, rounded, teacher, memory, permutation, **settings
    )
    assert half_loss == rounded_loss
    assert torch.equal(half_gradient, rounded_gradient.bfloat16())


def test_no_tensor_as_large_as_the_logits(
    inputs: Callable[..., list[Tensor]], operator_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objectives, "_TILE_BYTES", 2**20)
    student, teacher, memory, permutation = inputs(views=12, images=32, dim=4, size=16_384)
    with operator_log() as log:
        loss_and_gradient(
            massl_objective, student, teacher, memory, permutation, block_size=8192, student_temp=0.1, teacher_temp=0.07
        )
    assert log.largest * 4 <= 2**20
    assert student.shape[0] * memory.shape[0] * 4 == 24 * 2**20


def test_memory_layout_of_the_inputs_does_not_matter(inputs: Callable[..., list[Tensor]]) -> None:
    settings: dict[str, Any] = {"block_size": 8, "student_temp": 0.1, "teacher_temp": 0.07}
    contiguous = inputs()
    strided = [tensor.T.contiguous().T for tensor in contiguous[:3]]
    strided.append(contiguous[3].repeat_interleave(2)[::2])
    assert not any(tensor.is_contiguous() for tensor in strided)
    loss, gradient = loss_and_gradient(massl_objective, *contiguous, **settings)
    strided_loss, strided_gradient = loss_and_gradient(massl_objective, *strided, **settings)
    assert strided_loss == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(strided_gradient, gradient)


def test_not_a_number_reaches_the_loss(inputs: Callable[..., list[Tensor]]) -> None:
    student, *others = inputs()
    student[0, 0] = torch.nan
    assert massl_objective(student, *others, block_size=8, student_temp=0.1, teacher_temp=0.07).isnan()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_size": 32}, "block_size: 32; allowed: 1 to 24, the size of the memory"),
        ({"block_size": 0}, "block_size: 0; allowed: 1 to 24, the size of the memory"),
        ({"block_size": 10}, "memory: 24 rows, not a multiple of block_size 10; nearest: 20 and 30"),
        ({"student_temp": 0.0}, "student_temp: 0.0; allowed: a number > 0"),
        ({"teacher_temp": -1.0}, "teacher_temp: -1.0; allowed: a number > 0"),
        ({"teacher_temp": math.nan}, "teacher_temp: nan; allowed: a number > 0"),
        ({"teacher": torch.zeros(7, 8)}, "teacher: shape [7, 8]; allowed: [2·B, D], two views of B images"),
        (
            {"student": torch.zeros(13, 8)},
            "student: shape [13, 8]; allowed: [V·4, 8] with V >= 2 views, as teacher [8, 8] has 4 images",
        ),
        (
            {"student": torch.zeros(4, 8)},
            "student: shape [4, 8]; allowed: [V·4, 8] with V >= 2 views, as teacher [8, 8] has 4 images",
        ),
        (
            {"student": torch.zeros(12, 9)},
            "student: shape [12, 9]; allowed: [V·4, 8] with V >= 2 views, as teacher [8, 8] has 4 images",
        ),
        ({"memory": torch.zeros(24, 9)}, "memory: shape [24, 9]; allowed: [K, 8], as student rows are"),
        (
            {"permutation": torch.arange(23)},
            "permutation: torch.int64 [23]; allowed: torch.int64 [24], the indices of the memory",
        ),
        (
            {"permutation": torch.arange(24.0)},
            "permutation: torch.float32 [24]; allowed: torch.int64 [24], the indices of the memory",
        ),
    ],
)
def test_errors(inputs: Callable[..., list[Tensor]], changes: Any, message: str) -> None:
    arguments = dict(zip(("student", "teacher", "memory", "permutation"), inputs(), strict=True))
    settings: dict[str, Any] = {"block_size": 8, "student_temp": 0.1, "teacher_temp": 0.07}
    with pytest.raises(ValueError) as error:  # noqa: PT011
        massl_objective(**(arguments | settings | changes))
    assert str(error.value) == message


@pytest.mark.speed
def test_time_and_memory_at_the_published_size() -> None:
    """At most 1.5 times the plain matrix products measured in the same run, and 400 MB over the inputs."""
    inputs = make_inputs(images=64, memory_size=131_072, block_size=16_384)
    calls = {"products": matrix_products(inputs), "ours": lambda: ours(inputs)}
    assert peak_mb(calls["ours"]) <= 400  # before the other calls: what they leave to the allocator would hide some
    times = take_turns(calls, rounds=3)
    assert min(times["ours"].seconds) <= 1.5 * min(times["products"].seconds)
