"""The objectives of MaSSL and CARP, and the KoLeo regulariser.

Shapes: V views of B images, N = V·B student rows, G = 2·B teacher rows, R = N + G rows of both, D dimensions, K memory
rows or prototypes, S rows of a block, P = K / S blocks, T columns of a tile. Rows are view-major: all images of view 0,
then all of view 1, and so on; views 0 and 1 are the global ones, and the only ones that the teacher sees.

Everything here computes in float32, also under autocast; float64 inputs stay float64.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from massl_bench.pretrain.collectives import mean_over_ranks

# Bytes of a tile's logits. Small tiles stay in a CPU's cache between the two products and the exponential between them,
# but every operation ends with the threads waiting for each other, which costs more where cores are shared.
_TILE_BYTES = 32 * 2**20
# exp(±60) and sums of many such terms are normal float32 numbers.
_LARGEST_SAFE_LOGIT = 60.0


def massl_objective(
    student: Tensor,
    teacher: Tensor,
    memory: Tensor,
    permutation: Tensor,
    *,
    block_size: int,
    student_temp: float,
    teacher_temp: float,
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

    Returns:
        The scalar loss.

    Raises:
        ValueError: Shapes that do not match, a block larger than the memory or not dividing it, a temperature <= 0.
    """
    _check_views(student, teacher, "student", "teacher")
    if memory.ndim != 2 or memory.shape[1] != student.shape[1]:
        raise ValueError(f"memory: shape {list(memory.shape)}; allowed: [K, {student.shape[1]}], as student rows are")
    _check_blocks("memory", memory.shape[0], permutation, block_size)
    for name, temperature in (("student_temp", student_temp), ("teacher_temp", teacher_temp)):
        if not temperature > 0:
            raise ValueError(f"{name}: {temperature}; allowed: a number > 0")

    dtype = torch.promote_types(student.dtype, torch.float32)
    with torch.autocast(student.device.type, enabled=False):
        student = student.to(dtype)
        loss, grad_ND = _loss_and_gradient(
            student.detach(),
            teacher.detach().to(dtype),
            memory.detach().to(dtype),
            permutation.to(memory.device).reshape(-1, block_size),
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
    memory_KD: Tensor,
    blocks_PS: Tensor,
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
    # Unit rows have inner products in [-1, 1].
    largest_logit = 1 / min(student_temp, teacher_temp)
    rows_RD = torch.cat([scaled_ND, teacher_GD / teacher_temp])
    mean_RD, log_sum_R = _expect_memory(rows_RD, memory_KD, blocks_PS, largest_logit)
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
    rows_RD: Tensor, memory_KD: Tensor, blocks_PS: Tensor, largest_logit: float
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
    num_tiles = math.ceil(block_size / max(1, _TILE_BYTES // (num_rows * rows_RD.element_size())))
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


def koleo_loss(student_global: Tensor) -> Tensor:
    """Negative mean log distance of each row to its nearest neighbour, which spreads the rows out.

    The Kozachenko-Leonenko estimator as in DINOv2 (arXiv 2304.07193, section 4), on unit rows and within a view: the
    mean of both global views' losses. Neighbours are sought among this rank's images.

    Args:
        student_global: Unit rows of the two global student views [2·B, D], view-major, B >= 2.

    Returns:
        The scalar loss.

    Raises:
        ValueError: Not two views of at least two images.
    """
    if student_global.ndim != 2 or student_global.shape[0] % 2 or student_global.shape[0] < 4:
        raise ValueError(f"student_global: shape {list(student_global.shape)}; allowed: [2·B, D] with B >= 2")
    epsilon = 1e-8  # Identical rows have distance |eps · 1| and a finite loss.
    with torch.autocast(student_global.device.type, enabled=False):
        rows_ND = student_global.to(torch.promote_types(student_global.dtype, torch.float32))
        rows_2BD = rows_ND.reshape(2, -1, rows_ND.shape[1])
        with torch.no_grad():
            # Unit rows: the nearest neighbour is the one of the largest inner product, itself left out.
            similarity_2BB = rows_2BD @ rows_2BD.mT
            similarity_2BB.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
            nearest_2B1 = similarity_2BB.argmax(2, keepdim=True)
        neighbour_2BD = rows_2BD.gather(1, nearest_2B1.expand_as(rows_2BD))
        distance_2B = functional.pairwise_distance(rows_2BD, neighbour_2BD, eps=epsilon)
        return -(distance_2B + epsilon).log().mean()


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
    _check_views(student_logits, teacher_logits, "student_logits", "teacher_logits")
    _check_blocks("prototypes", student_logits.shape[1], permutation, block_size)
    num_images = teacher_logits.shape[0] // 2
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    epsilon = torch.finfo(dtype).eps
    with torch.autocast(student_logits.device.type, enabled=False):
        permutation = permutation.to(student_logits.device)
        blocks = (permutation.shape[0] // block_size, block_size)
        student_VBPS, teacher_2BPS = (
            logits_NK.to(dtype).index_select(1, permutation).view(-1, num_images, *blocks).softmax(3)
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


def _check_views(student: Tensor, teacher: Tensor, student_name: str, teacher_name: str) -> None:
    """Raise ValueError unless the rows are [V·B, X] and [2·B, X] with V >= 2."""
    if teacher.ndim != 2 or teacher.shape[0] < 2 or teacher.shape[0] % 2:
        raise ValueError(f"{teacher_name}: shape {list(teacher.shape)}; allowed: [2·B, D], two views of B images")
    num_images, dim = teacher.shape[0] // 2, teacher.shape[1]
    whole_views = student.shape[0] >= 2 * num_images and student.shape[0] % num_images == 0
    if student.ndim != 2 or student.shape[1] != dim or not whole_views:
        raise ValueError(
            f"{student_name}: shape {list(student.shape)}; allowed: [V·{num_images}, {dim}] with V >= 2 views, "
            f"as {teacher_name} {list(teacher.shape)} has {num_images} images"
        )


def _check_blocks(what: str, num_rows: int, permutation: Tensor, block_size: int) -> None:
    """Raise ValueError unless blocks of `block_size` cut the permuted rows evenly."""
    if permutation.shape != (num_rows,) or permutation.dtype != torch.int64:
        found = f"{permutation.dtype} {list(permutation.shape)}"
        raise ValueError(f"permutation: {found}; allowed: torch.int64 [{num_rows}], the indices of the {what}")
    if not 1 <= block_size <= num_rows:
        raise ValueError(f"block_size: {block_size}; allowed: 1 to {num_rows}, the size of the {what}")
    if num_rows % block_size:
        below, above = num_rows // block_size * block_size, (num_rows // block_size + 1) * block_size
        nearest = f"nearest: {below} and {above}"
        raise ValueError(f"{what}: {num_rows} rows, not a multiple of block_size {block_size}; {nearest}")
