from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from massl_bench.pretrain import carp_objective


@pytest.fixture
def logits() -> Callable[..., list[Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def make(
        views: int = 4, images: int = 3, num_prototypes: int = 12, dtype: torch.dtype = torch.float32
    ) -> list[Tensor]:
        rows = [torch.randn(n * images, num_prototypes, generator=generator, dtype=dtype) for n in (views, 2)]
        return [*rows, torch.randperm(num_prototypes, generator=generator)]

    return make


def plain_carp_objective(student: Tensor, teacher: Tensor, permutation: Tensor, *, block_size: int) -> Any:
    """The definition, term by term, one row of one block at a time."""
    num_images, num_views = len(teacher) // 2, 2 * len(student) // len(teacher)
    consistencies, entropies = [], []
    for block in permutation.split(block_size):
        p, q = student[:, block].softmax(1), teacher[:, block].softmax(1)
        for j in range(2):
            for i in range(num_views):
                for b in range(num_images):
                    if i != j:
                        consistencies.append(-(p[i * num_images + b] @ q[j * num_images + b]).log())
        mean = torch.cat([p, q]).mean(0)
        entropies.append(math.log(block_size) + (mean * mean.log()).sum())
    return torch.stack(consistencies).mean(), torch.stack(entropies).mean()


def test_golden(golden: Callable[[str], dict[str, Any]]) -> None:
    arrays = golden("carp_objective.npz")
    student = arrays["student_logits"].requires_grad_()
    consistency, entropy = carp_objective(
        student, arrays["teacher_logits"], arrays["permutation"], block_size=arrays["block_size"]
    )
    (consistency + entropy).backward()
    assert consistency.item() == pytest.approx(arrays["consistency"], rel=1e-6)
    assert entropy.item() == pytest.approx(arrays["entropy"], rel=1e-5)
    assert (student.grad - arrays["grad_student"]).norm() <= 1e-6 * arrays["grad_student"].norm()


@pytest.mark.parametrize(("views", "images", "block_size"), [(2, 1, 12), (2, 3, 4), (7, 5, 3)])
def test_equals_the_plain_formulation(
    logits: Callable[..., list[Tensor]], views: int, images: int, block_size: int
) -> None:
    student, teacher, permutation = logits(views, images, dtype=torch.float64)
    gradients, values = [], []
    for objective in (carp_objective, plain_carp_objective):
        rows = student.clone().requires_grad_()
        consistency, entropy = objective(rows, teacher, permutation, block_size=block_size)
        (consistency + 0.5 * entropy).backward()
        values.append((consistency.item(), entropy.item()))
        gradients.append(rows.grad)
    assert values[0] == pytest.approx(values[1], rel=1e-10)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_by_hand() -> None:
    """Equal logits: every assignment is 1/4 in blocks of 4, so <p, q> = 4/16 and the mean has the full entropy."""
    consistency, entropy = carp_objective(torch.zeros(6, 8), torch.zeros(4, 8), torch.arange(8), block_size=4)
    assert consistency.item() == pytest.approx(math.log(4), rel=1e-6)
    assert entropy.item() == pytest.approx(0, abs=1e-6)


def test_assignments_without_overlap_are_clamped() -> None:
    """Student always the first prototype, teacher always the second: inner product 0, means (1/2, 1/2)."""
    student, teacher = torch.tensor([[1e4, 0.0]]).repeat(2, 1), torch.tensor([[0.0, 1e4]]).repeat(2, 1)
    consistency, entropy = carp_objective(student, teacher, torch.arange(2), block_size=2)
    assert consistency.item() == pytest.approx(-math.log(torch.finfo(torch.float32).eps), rel=1e-6)
    assert entropy.item() == pytest.approx(0, abs=1e-6)


def test_teacher_has_no_gradient_and_half_precision_is_computed_in_float32(logits: Callable[..., list[Tensor]]) -> None:
    student, teacher, permutation = logits()
    student, teacher = student.bfloat16().requires_grad_(), teacher.bfloat16().requires_grad_()
    rounded = student.detach().float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = carp_objective(student, teacher, permutation, block_size=4)
    single = carp_objective(rounded, teacher.detach().float(), permutation, block_size=4)
    assert torch.equal(torch.stack(half), torch.stack(single))
    sum(half).backward()
    sum(single).backward()
    assert teacher.grad is None
    assert torch.equal(student.grad, rounded.grad.bfloat16())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_size": 16}, "block_size: 16; allowed: 1 to 12, the size of the prototypes"),
        ({"block_size": 5}, "prototypes: 12 rows, not a multiple of block_size 5; nearest: 10 and 15"),
        (
            {"student_logits": torch.zeros(12, 11)},
            "student_logits: shape [12, 11]; allowed: [V·3, 12] with V >= 2 views, "
            "as teacher_logits [6, 12] has 3 images",
        ),
        (
            {"permutation": torch.arange(11)},
            "permutation: torch.int64 [11]; allowed: torch.int64 [12], the indices of the prototypes",
        ),
    ],
)
def test_errors(logits: Callable[..., list[Tensor]], changes: Any, message: str) -> None:
    arguments = dict(zip(("student_logits", "teacher_logits", "permutation"), logits(), strict=True))
    with pytest.raises(ValueError) as error:  # noqa: PT011
        carp_objective(**(arguments | {"block_size": 4} | changes))
    assert str(error.value) == message
