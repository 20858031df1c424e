"""What softmaxes over blocks of a memory expect, as fused attention in float16.

softmax(M x) and M are what an attention kernel computes of queries x and keys and values M, without their product in
memory; it returns the log-sum-exp beside it. Rows of unit length have no range to lose, so that float16, with its 11
bits, is right here where networks run in bfloat16 too: its products are added up in float32.

Shapes: R rows, D dimensions, K memory rows, S of a block, P blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SMALLEST_TEMPERATURE = 0.04
"""The smallest that a publication uses. An error of 2^-11 in the factors is one of 2^-11 / temperature in exponents."""

_GATHERED = 1 << 25
"""Numbers of the memory that are gathered at a time, 64 MB in float16: all blocks of the published size at once, as
each is cut over the rows alone, and one is too little work for a card."""


@torch.no_grad()
def expect_by_attention(rows_RD: Tensor, *, memory_KD: Tensor, blocks_PS: Tensor) -> tuple[Tensor, Tensor]:
    """Returns means over the blocks M_b of what the softmax of each row's logits M_b x expects, M_b around its centre.

    With c_b the mean of a block's rows, M_b - c_b gives the same softmax. What it expects is smaller by c_b, and the
    log-sum-exp by <c_b, x>: a cross-entropy and its gradient do not change, and float16 is left with what the rows of
    a block do not share.

    Args:
        rows_RD: float32, rows x already divided by their temperature.
        memory_KD: float32.
        blocks_PS: indices of the memory rows of each block.

    Returns:
        (M_b - c_b)ᵀ softmax(M_b x), float32 [R, D], and logsumexp((M_b - c_b) x), float32 [R].
    """
    num_rows, dim = rows_RD.shape
    num_blocks, block_size = blocks_PS.shape
    width = dim + -dim % 8  # kernels take multiples of 8; zeros change no product
    queries_RW = functional.pad(rows_RD, (0, width - dim)).half()
    at_once = max(1, _GATHERED // (block_size * width))
    mean_RD, log_sum_R = torch.zeros_like(rows_RD), rows_RD.new_zeros(num_rows)
    blocks_pSW = queries_RW.new_zeros(min(at_once, num_blocks), block_size, width)
    for indices_pS in torch.split(blocks_PS, at_once):
        in_use_pSW = blocks_pSW[: len(indices_pS)]
        for gathered_SW, index_S in zip(in_use_pSW, indices_pS, strict=True):
            block_SD = memory_KD.index_select(0, index_S)
            torch.sub(block_SD, block_SD.mean(0), out=gathered_SW[:, :dim])  # in float32, rounded where it is written
        keys_p1SW = in_use_pSW[:, None]
        mean_pRW, log_sum_pR = _attend(queries_RW.expand(len(indices_pS), 1, -1, -1), keys_p1SW)
        mean_RD.add_(mean_pRW[..., :dim].sum(0, dtype=rows_RD.dtype), alpha=1 / num_blocks)
        log_sum_R.add_(log_sum_pR.sum(0), alpha=1 / num_blocks)
    return mean_RD, log_sum_R


def _attend(queries_p1RW: Tensor, keys_p1SW: Tensor) -> tuple[Tensor, Tensor]:
    """Returns attention [p, R, W] with the keys as values, and the log-sum-exp [p, R], from the device's kernel.

    `scaled_dot_product_attention` chooses among the same kernels, and keeps the log-sum-exp to itself.
    """
    num_rows, width = queries_p1RW.shape[2:]
    if queries_p1RW.device.type == "cpu":
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        attended, log_sum = kernel(queries_p1RW, keys_p1SW, keys_p1SW, scale=1.0)
    elif width <= 256 and torch.cuda.get_device_capability(queries_p1RW.device) >= (8, 0):
        kernel = torch.ops.aten._scaled_dot_product_flash_attention
        attended, log_sum = kernel(queries_p1RW, keys_p1SW, keys_p1SW, scale=1.0)[:2]
    else:
        kernel = torch.ops.aten._scaled_dot_product_efficient_attention
        attended, log_sum = kernel(queries_p1RW, keys_p1SW, keys_p1SW, None, True, scale=1.0)[:2]
    return attended.squeeze(1), log_sum.squeeze(1)[:, :num_rows]
