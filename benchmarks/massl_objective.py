"""Time and memory of the MaSSL objective against its own matrix products, the paper's formula and the authors' code.

Shapes: V views of B images, N = V·B student rows, G = 2·B teacher rows, D dimensions, K memory rows, S rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.measure import Bar, Comparison, peak_mb, take_turns
from massl_bench.pretrain import massl_objective

SUMMARY = "MaSSL's objective with its gradient, against the published formulation and its own matrix products"

STUDENT_TEMP, TEACHER_TEMP = 0.1, 0.07
VIEWS, DIM = 12, 256


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Unit rows `student` [N, D], `teacher` [G, D] and `memory` [K, D]; the `permutation` [K] that blocks cut."""

    student: Tensor
    teacher: Tensor
    memory: Tensor
    permutation: Tensor
    block_size: int


def make_inputs(images: int, memory_size: int, block_size: int, *, views: int = VIEWS) -> Inputs:
    """Random rows, the same in every call."""
    generator = torch.Generator().manual_seed(0)

    def unit_rows(num_rows: int) -> Tensor:
        rows_RD = torch.randn(num_rows, DIM, generator=generator)
        return rows_RD.div_(torch.linalg.vector_norm(rows_RD, dim=1, keepdim=True))

    return Inputs(
        student=unit_rows(views * images).requires_grad_(),
        teacher=unit_rows(2 * images),
        memory=unit_rows(memory_size),
        permutation=torch.randperm(memory_size, generator=generator),
        block_size=block_size,
    )


def ours(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Loss and gradient from the package."""
    loss = massl_objective(
        inputs.student,
        inputs.teacher,
        inputs.memory,
        inputs.permutation,
        block_size=inputs.block_size,
        student_temp=STUDENT_TEMP,
        teacher_temp=TEACHER_TEMP,
    )
    return loss.detach(), torch.autograd.grad(loss, inputs.student)[0]


def plain(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Loss and gradient of `plain_loss`."""
    loss = plain_loss(inputs, student_temp=STUDENT_TEMP, teacher_temp=TEACHER_TEMP)
    return loss.detach(), torch.autograd.grad(loss, inputs.student)[0]


def plain_loss(inputs: Inputs, *, student_temp: float, teacher_temp: float) -> Tensor:
    """The loss as the paper writes it: whole logit matrices in blocks, a cross-entropy for each pair."""
    num_images = len(inputs.teacher) // 2
    logits_NK, targets_GK = (
        (rows_RD @ inputs.memory.T / temperature)[:, inputs.permutation]
        for rows_RD, temperature in ((inputs.student, student_temp), (inputs.teacher, teacher_temp))
    )
    student_views = [blocks_BPS(view_BK, inputs) for view_BK in torch.split(logits_NK, num_images)]
    teacher_views = [blocks_BPS(view_BK, inputs).softmax(2) for view_BK in torch.split(targets_GK, num_images)]
    losses = [
        -(target_BPS * student_BPS.log_softmax(2)).sum(2).mean()
        for j, target_BPS in enumerate(teacher_views)
        for i, student_BPS in enumerate(student_views)
        if i != j
    ]
    return torch.stack(losses).mean()


def published(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Loss and gradient of `published_loss`."""
    loss = published_loss(inputs, student_temp=STUDENT_TEMP, teacher_temp=TEACHER_TEMP)
    return loss.detach(), torch.autograd.grad(loss, inputs.student)[0]


def published_loss(inputs: Inputs, *, student_temp: float, teacher_temp: float) -> Tensor:
    """The loss by the operations of the authors' code, memory_bank.py, random_partition.py and criterion.py.

    It does more than `plain_loss`, which is the paper's formula: each product takes a copy of the memory, the blocks of
    each view are gathered, split and stacked, and each pair takes the teacher's softmax anew.
    """
    num_images = len(inputs.teacher) // 2
    views = []
    for rows_RD, temperature in ((inputs.student, student_temp), (inputs.teacher, teacher_temp)):
        logits_RK = (rows_RD @ inputs.memory.T.clone()).div_(temperature)
        gathered = [view_BK[:, inputs.permutation] for view_BK in logits_RK.chunk(len(rows_RD) // num_images)]
        views.append([torch.stack(view_BK.split(inputs.block_size, dim=1)) for view_BK in gathered])
    losses = [
        (-teacher_PBS.softmax(2) * student_PBS.log_softmax(2)).sum(2).mean()
        for i, student_PBS in enumerate(views[0])
        for j, teacher_PBS in enumerate(views[1])
        if i != j
    ]
    return torch.stack(losses).mean()


def blocks_BPS(view_BK: Tensor, inputs: Inputs) -> Tensor:
    return view_BK.view(view_BK.shape[0], -1, inputs.block_size)


def matrix_products(inputs: Inputs) -> Callable[[], None]:
    """The products that no exact formulation can avoid, z·Mᵀ, p·M and t·Mᵀ per block, into buffers made beforehand."""
    student_ND, teacher_GD = inputs.student.detach(), inputs.teacher
    logits_NS = torch.empty(len(student_ND), inputs.block_size)
    targets_GS = torch.empty(len(teacher_GD), inputs.block_size)
    means_ND = torch.empty_like(student_ND)

    def run() -> None:
        for block_SD in torch.split(inputs.memory, inputs.block_size):
            torch.mm(student_ND, block_SD.T, out=logits_NS)
            torch.mm(logits_NS, block_SD, out=means_ND)
            torch.mm(teacher_GD, block_SD.T, out=targets_GS)

    return run


def run(quick: bool) -> list[Comparison]:
    """Returns the comparisons at the published size, and at a smaller memory that the published formulation fits."""
    images, block = (4, 256) if quick else (64, 16_384)
    sizes = (1_024, 2_048) if quick else (32_768, 131_072)
    found = []
    for memory_size in sizes:
        inputs = make_inputs(images, memory_size, block)
        calls: dict[str, Callable[[], object]] = {
            "ours": partial(ours, inputs),
            "its matrix products": matrix_products(inputs),
        }
        bars = [Bar(call="its matrix products", ratio=1.2)]
        notes = []
        if memory_size == sizes[0]:
            calls |= {"published formulation": partial(plain, inputs), "published code": partial(published, inputs)}
            bars += [Bar(call=name, ratio=8, kind="faster") for name in ("published formulation", "published code")]
            loss, grad_ND = ours(inputs)
            for name, other in (("formulation", plain), ("code", published)):
                other_loss, other_grad_ND = other(inputs)
                error = float((grad_ND - other_grad_ND).norm() / other_grad_ND.norm())
                notes.append(
                    f"loss {float(loss):.6f}, published {name} {float(other_loss):.6f}; relative gradient error "
                    f"{error:.1e}"
                )
        times = take_turns(calls, 1 if quick else 3)
        if "published formulation" in times:
            most = times["published formulation"].median / times["its matrix products"].median
            notes.append(
                f"no float32 formulation is more than {most:.1f} × as fast as the published one: its products alone are"
            )
        found.append(
            Comparison(
                what=f"B {images}, V {VIEWS}, D {DIM}, K {memory_size:,}, blocks of {block:,}",
                times=times,
                bars=tuple(bars),
                peak_mb={name: peak_mb(call) for name, call in calls.items() if name != "its matrix products"},
                notes=tuple(notes),
            )
        )
    return found
