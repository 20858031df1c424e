"""CARP's objective with its gradient, beside the layer of prototypes that makes its logits, and the published loop."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.measure import Bar, Comparison, take_turns
from massl_bench.pretrain import carp_objective

SUMMARY = "CARP's objective with its gradient, against the published formulation and the prototypes' products"

VIEWS, DIM = 8, 256


def published(student_NK: Tensor, teacher_GK: Tensor, permutation_K: Tensor, block_size: int) -> Tensor:
    """The loss written plainly: for each pair of views, softmaxes of all blocks, their agreement and mean."""
    num_images = len(teacher_GK) // 2
    students = student_NK[:, permutation_K].split(num_images)
    teachers = teacher_GK[:, permutation_K].split(num_images)
    epsilon = torch.finfo(torch.float32).eps
    terms, shares = [], []
    for j, teacher_BK in enumerate(teachers):
        q_BPS = teacher_BK.view(num_images, -1, block_size).softmax(2)
        shares.append(q_BPS)
        for i, student_BK in enumerate(students):
            p_BPS = student_BK.view(num_images, -1, block_size).softmax(2)
            if j == 0:
                shares.append(p_BPS)
            if i != j:
                terms.append(-(p_BPS * q_BPS).sum(2).clamp(epsilon, 1 - epsilon).log().mean())
    mean_PS = torch.cat(shares).mean(0).clamp(min=epsilon)
    entropy = torch.log(torch.tensor(float(block_size))) + (mean_PS * mean_PS.log()).sum(1).mean()
    return torch.stack(terms).mean() + entropy


def run(quick: bool) -> list[Comparison]:
    """Returns the comparison at 16 images, 2 + 6 views and 65,536 prototypes in blocks of 512."""
    images, prototypes, block_size = (2, 1_024, 128) if quick else (16, 65_536, 512)
    generator = torch.Generator().manual_seed(0)
    rows_ND = torch.randn(VIEWS * images, DIM, generator=generator)
    weight_KD = torch.randn(prototypes, DIM, generator=generator)
    student_NK = (rows_ND @ weight_KD.T / 16).requires_grad_()
    teacher_GK = torch.randn(2 * images, prototypes, generator=generator)
    permutation_K = torch.randperm(prototypes, generator=generator)

    def ours() -> tuple[Tensor, Tensor]:
        loss = sum(carp_objective(student_NK, teacher_GK, permutation_K, block_size=block_size))
        assert isinstance(loss, Tensor)
        return loss.detach(), torch.autograd.grad(loss, student_NK)[0]

    def plain() -> tuple[Tensor, Tensor]:
        loss = published(student_NK, teacher_GK, permutation_K, block_size)
        return loss.detach(), torch.autograd.grad(loss, student_NK)[0]

    def products() -> None:
        """The layer forward, and backward to its input and its weight; the teacher's forward."""
        rows_ND @ weight_KD.T
        rows_ND[: 2 * images] @ weight_KD.T
        student_NK.detach() @ weight_KD
        student_NK.detach().T @ rows_ND

    (loss, grad_NK), (plain_loss, plain_grad_NK) = ours(), plain()
    error = float((grad_NK - plain_grad_NK).norm() / plain_grad_NK.norm())
    return [
        Comparison(
            what=f"B {images}, V {VIEWS}, {prototypes:,} prototypes in blocks of {block_size}",
            times=take_turns({"ours": ours, "published formulation": plain, "the prototypes' products": products}, 3),
            bars=(Bar(call="published formulation", ratio=1, kind="faster"),),
            notes=(f"loss {float(loss):.6f}, published {float(plain_loss):.6f}; relative gradient error {error:.1e}",),
        )
    ]
