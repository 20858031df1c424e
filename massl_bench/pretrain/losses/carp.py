"""The objective of CARP.

Shapes: V views of B images, N = V·B student rows, G = 2·B teacher rows, K prototypes, S of a block, P = K / S blocks.
Rows are view-major: all images of view 0, then all of view 1, and so on; views 0 and 1 are the global ones, and the
only ones that the teacher sees.

Everything here computes in float32, also under autocast; float64 inputs stay float64.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from massl_bench.pretrain.distributed import mean_over_ranks
from massl_bench.pretrain.losses.rows import check_blocks, check_views


def carp_objective(
    student_logits: Tensor, teacher_logits: Tensor, permutation: Tensor, *, block_size: int
) -> tuple[Tensor, Tensor]:
    """Consistency and entropy of assignments over random partitions of the prototypes.

    The objective of CARP (arXiv 2310.12692). The permuted prototypes are cut into blocks; an assignment is the softmax
    within a block, without temperature. Consistency is -log<p_i, p_j>, averaged over blocks, images and pairs of
    student view i and teacher view j != i. Entropy is log(S) + Σ p̄ log p̄, averaged over blocks, with p̄ the mean
    assignment of all student and teacher rows together: zero where the prototypes are used alike. The loss is their
    sum. Inner products are clamped to [eps, 1 - eps] and p̄ from below by eps, the spacing of the dtype.

    In a process group p̄ covers all ranks and `entropy` is the same everywhere; `consistency` is of this rank's images.
    Both are then right where gradients are averaged over ranks (DistributedDataParallel).

    Args:
        student_logits: [V·B, K], view-major, V >= 2. Half precision is computed in float32.
        teacher_logits: [2·B, K], view-major. Detached.
        permutation: int64 [K]: the prototypes in the order in which blocks are cut; the same on every rank.
        block_size: Prototypes of a block; divides K.

    Returns:
        The scalars `consistency` and `entropy`.

    Raises:
        ValueError: Shapes that do not match, a block larger than the prototypes or not dividing them.
    """
    check_views(student_logits, teacher_logits, "student_logits", "teacher_logits")
    check_blocks("prototypes", student_logits.shape[1], permutation, block_size)
    num_images = teacher_logits.shape[0] // 2
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    epsilon = torch.finfo(dtype).eps
    with torch.autocast(student_logits.device.type, enabled=False):
        permutation = permutation.to(student_logits.device)
        blocks = (permutation.shape[0] // block_size, block_size)
        student_VBPS, teacher_2BPS = (
            _Permuted.apply(logits_NK.to(dtype), permutation).view(-1, num_images, *blocks).softmax(3)
            for logits_NK in (student_logits, teacher_logits.detach())
        )
        agreement_V2BP = torch.einsum("vbps,jbps->vjbp", student_VBPS, teacher_2BPS).clamp(epsilon, 1 - epsilon)
        # A global view is not compared with the teacher's output for the same view: 2·V - 2 pairs.
        is_pair_V2 = 1 - torch.eye(student_VBPS.shape[0], 2, dtype=dtype, device=student_logits.device)
        consistency = -(agreement_V2BP.log().mean((2, 3)) * is_pair_V2).sum() / (2 * student_VBPS.shape[0] - 2)

        num_rows = student_logits.shape[0] + teacher_logits.shape[0]
        mean_PS = mean_over_ranks((student_VBPS.sum((0, 1)) + teacher_2BPS.sum((0, 1))) / num_rows).clamp(min=epsilon)
        entropy = math.log(block_size) + (mean_PS * mean_PS.log()).sum(1).mean()
    return consistency, entropy


class _Permuted(torch.autograd.Function):
    """Columns in another order; the gradient goes the way back, where torch would add it up column by column."""

    @staticmethod
    def forward(ctx: Any, rows_NK: Tensor, permutation_K: Tensor) -> Tensor:
        ctx.save_for_backward(permutation_K)
        return rows_NK.index_select(1, permutation_K)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NK: Tensor) -> tuple[Tensor, None]:
        (permutation_K,) = ctx.saved_tensors
        places_K = torch.arange(len(permutation_K), device=permutation_K.device)
        back_K = torch.empty_like(permutation_K).scatter_(0, permutation_K, places_K)
        return grad_NK.index_select(1, back_K), None
