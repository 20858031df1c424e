"""The objective of MaSSL.

Shapes: V views of B images, N = V·B student rows, G = 2·B teacher rows, R = N + G rows of both, D dimensions, K memory
rows, S of a block, P = K / S blocks, T columns of a tile. Rows are view-major: all images of view 0,
then all of view 1, and so on; views 0 and 1 are the global ones, and the only ones that the teacher sees.

Everything here computes in float32, also under autocast, but for what is asked for `by_attention`; float64 inputs stay
float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from massl_bench.pretrain.losses.attention import SMALLEST_TEMPERATURE, expect_by_attention
from massl_bench.pretrain.losses.rows import check_blocks, check_views

# Bytes of a tile's logits. On a CPU small tiles stay in its cache between the two products and the exponential between
# them; a GPU needs large ones to have enough to do.
_TILE_BYTES = 8 * 2**20
_TILE_BYTES_ON_A_GPU = 32 * 2**20
# exp(±60) and sums of many such terms are normal float32 numbers.
_LARGEST_SAFE_LOGIT = 60.0


def massl_objective(  # noqa: PLR0913  # the contract's
    student: Tensor,
    teacher: Tensor,
    memory: Tensor,
    permutation: Tensor,
    *,
    block_size: int,
    student_temp: float,
    teacher_temp: float,
    by_attention: bool = False,
) -> Tensor:
    """Cross-entropy from teacher to student assignments within stochastic blocks of the memory.

    The objective of MaSSL (arXiv 2407.17486). The permuted memory is cut into blocks of `block_size` rows. Within a
    block, a row's assignment is the softmax of its inner products with the block's rows, divided by the temperature.
    The loss is the cross-entropy of student view i under teacher view j, averaged over blocks, images and all pairs
    (i, j) with j != i.

    The memory is read tile by tile, once for the loss and the gradient together; no [V·B, K] matrix exists. Only the
    student receives a gradient, which cannot be differentiated again. Under DistributedDataParallel each rank passes
    its own images with the same memory and permutation: the mean of the ranks' losses is that of the global batch.

    All rows are of unit length, by contract: it bounds the logits by 1 / temperature, and thereby tells where float32
    holds their exponentials as they are. Much longer rows can make the loss infinite or NaN.

    Args:
        student: Unit rows [V·B, D], view-major, V >= 2. Half precision is computed in float32.
        teacher: Unit rows [2·B, D], view-major. Detached.
        memory: Unit rows [K, D]. Detached.
        permutation: int64 [K]: the memory rows in the order in which blocks are cut.
        block_size: Rows of a block; divides K.
        student_temp: Positive temperature of the student's logits.
        teacher_temp: Positive temperature of the teacher's logits.
        by_attention: Multiply in float16 with float32 sums, in fused kernels. At a training's sizes the loss is within
            1e-5 of float32's (2e-4 where all rows lie beside rows of the memory), and the gradient within 5e-4 of what
            student and teacher expect of the memory, whose difference it is. For temperatures of at least 0.04.

    Returns:
        The scalar loss.

    Raises:
        ValueError: Shapes that do not match, a block larger than the memory or not dividing it, a temperature <= 0, or
            one too small for float16.
    """
    check_views(student, teacher, "student", "teacher")
    if memory.ndim != 2 or memory.shape[1] != student.shape[1]:
        raise ValueError(f"memory: shape {list(memory.shape)}; allowed: [K, {student.shape[1]}], as student rows are")
    check_blocks("memory", memory.shape[0], permutation, block_size)
    for name, temperature in (("student_temp", student_temp), ("teacher_temp", teacher_temp)):
        if not temperature > 0:
            raise ValueError(f"{name}: {temperature}; allowed: a number > 0")
        if by_attention and temperature < SMALLEST_TEMPERATURE:
            allowed = f"from {SMALLEST_TEMPERATURE}, for an objective in float16"
            raise ValueError(f"{name}: {temperature}; allowed: {allowed}")

    dtype = torch.promote_types(student.dtype, torch.float32)
    with torch.autocast(student.device.type, enabled=False):
        student = student.to(dtype)
        blocks_PS = permutation.to(memory.device).reshape(-1, block_size)
        # Unit rows have inner products in [-1, 1].
        largest_logit = 1 / min(student_temp, teacher_temp)
        expect = expect_by_attention if by_attention else partial(_expect_memory, largest_logit=largest_logit)
        loss, grad_ND = _loss_and_gradient(
            student.detach(),
            teacher.detach().to(dtype),
            partial(expect, memory_KD=memory.detach().to(dtype), blocks_PS=blocks_PS),
            student_temp,
            teacher_temp,
        )
        differentiable: Tensor = _KnownGradient.apply(student, loss, grad_ND)
    return differentiable


class _KnownGradient(torch.autograd.Function):
    """A scalar whose gradient was found together with it, so that the backward pass is one product."""

    @staticmethod
    def forward(ctx: Any, student_ND: Tensor, loss: Tensor, grad_ND: Tensor) -> Tensor:
        ctx.save_for_backward(grad_ND)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None]:
        (grad_ND,) = ctx.saved_tensors
        return grad_ND * grad_loss, None, None


@torch.no_grad()
def _loss_and_gradient(
    student_ND: Tensor,
    teacher_GD: Tensor,
    expect: Callable[[Tensor], tuple[Tensor, Tensor]],
    student_temp: float,
    teacher_temp: float,
) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient for the student [N, D], from one mean of memory rows for each row.

    With z a student row, q_j the softmax of teacher view j in block b, and M_b the block [S, D], a pair costs
    logsumexp(M_b z / τ) - <q_j, M_b z / τ>. The second term is linear in the logits: it equals <M_bᵀ q_j, z> / τ. So
    the targets of a student view enter as one vector of D numbers, Σ_{j != i} M_bᵀ q_j, and the gradient of the first
    term is M_bᵀ p / τ with p the student's softmax: the same expression, and one pass computes it for all rows of
    student and teacher.
    """
    num_images = teacher_GD.shape[0] // 2
    num_views = student_ND.shape[0] // num_images
    num_terms = 2 * (num_views - 1) * num_images

    scaled_ND = student_ND / student_temp
    rows_RD = torch.cat([scaled_ND, teacher_GD / teacher_temp])
    mean_RD, log_sum_R = expect(rows_RD)
    student_mean_VBD, teacher_mean_2BD = torch.split(mean_RD.view(num_views + 2, num_images, -1), [num_views, 2])
    log_sum_VB = log_sum_R.view(num_views + 2, num_images)[:num_views]

    # A local view has both teacher views as targets; a global view i only the other one, so that its target is
    # teacher_mean[1 - i] and its log-sum-exp counts once.
    target_VBD = teacher_mean_2BD.sum(0).repeat(num_views, 1, 1)
    target_VBD[:2] = teacher_mean_2BD.flip(0)
    num_targets_V11 = student_ND.new_full((num_views, 1, 1), 2.0)
    num_targets_V11[:2] = 1.0

    linear = (target_VBD * scaled_ND.reshape_as(target_VBD)).sum()
    loss = ((num_targets_V11[:, 0] * log_sum_VB).sum() - linear) / num_terms
    grad_VBD = (num_targets_V11 * student_mean_VBD - target_VBD) / (num_terms * student_temp)
    return loss, grad_VBD.view_as(student_ND)


def _expect_memory(
    rows_RD: Tensor, *, memory_KD: Tensor, blocks_PS: Tensor, largest_logit: float
) -> tuple[Tensor, Tensor]:
    """Return means over the blocks M_b of what the softmax of each row's logits M_b x expects.

    Args:
        rows_RD: Rows x already divided by their temperature, [R, D].
        memory_KD: The memory, [K, D].
        blocks_PS: Indices of the memory rows of each block, [P, S].
        largest_logit: Bound of the logits' absolute values.

    Returns:
        M_bᵀ softmax(M_b x), [R, D], and logsumexp(M_b x), [R].
    """
    num_rows = rows_RD.shape[0]
    num_blocks, block_size = blocks_PS.shape
    tile_bytes = _TILE_BYTES if rows_RD.device.type == "cpu" else _TILE_BYTES_ON_A_GPU
    num_tiles = math.ceil(block_size / max(1, tile_bytes // (num_rows * rows_RD.element_size())))
    tile_size = math.ceil(block_size / num_tiles)
    track_max = largest_logit > _LARGEST_SAFE_LOGIT

    tile_TD = memory_KD.new_empty(tile_size, memory_KD.shape[1])
    logits_RT = rows_RD.new_empty(num_rows, tile_size)
    mean_RD = torch.zeros_like(rows_RD)
    log_sum_R = rows_RD.new_zeros(num_rows)
    for block_S in blocks_PS:
        # Softmax in one pass over tiles: exponentials are summed as they are and divided at the block's end. Beyond
        # float32's range they are relative to the largest logit so far, and sums rescaled when a larger one comes.
        max_R1 = rows_RD.new_full((num_rows, 1), -torch.inf if track_max else 0.0)
        sum_R1 = rows_RD.new_zeros(num_rows, 1)
        weighted_RD = torch.zeros_like(rows_RD)
        for index_T in torch.split(block_S, tile_size):
            memory_TD = torch.index_select(memory_KD, 0, index_T, out=tile_TD[: len(index_T)])
            exp_RT = torch.mm(rows_RD, memory_TD.T, out=logits_RT[:, : len(index_T)])
            if track_max:
                new_max_R1 = torch.maximum(max_R1, exp_RT.amax(1, keepdim=True))
                rescale_R1 = (max_R1 - new_max_R1).exp_()
                sum_R1.mul_(rescale_R1)
                weighted_RD.mul_(rescale_R1)
                exp_RT.sub_(new_max_R1)
                max_R1 = new_max_R1
            exp_RT.exp_()
            sum_R1.add_(exp_RT.sum(1, keepdim=True))
            weighted_RD.addmm_(exp_RT, memory_TD)
        mean_RD.addcdiv_(weighted_RD, sum_R1, value=1 / num_blocks)
        log_sum_R.add_((sum_R1.log_() + max_R1).squeeze(1), alpha=1 / num_blocks)
    return mean_RD, log_sum_R
