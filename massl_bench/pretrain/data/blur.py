"""Gaussian blur of whole batches, as PIL's `GaussianBlur` computes it. Shapes: N images of C channels, S × S pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from massl_bench.pretrain.transfer import to_device

_PASSES = 3
_TILE = 32


def gaussian_blur(images: Tensor, radius: Tensor) -> Tensor:
    """Blurs images as PIL's `GaussianBlur` does: three passes of a box of fractional width in each direction.

    The passes over one line of S pixels, with PIL's repetition of the border pixels in each, are one matrix [S, S]: the
    blur is B · x · Bᵀ for every channel.

    Args:
        images: float32 [N, C, S, S].
        radius: PIL's radius of each image, [N], on the CPU.

    Returns:
        float32 [N, C, S, S].
    """
    matrices_NSS, reach = blur_matrices(radius, images.shape[-1], images.device)
    return blur_lines(images, matrices_NSS, reach)


def blur_lines(images: Tensor, matrices: Tensor, reach: int) -> Tensor:
    """Multiplies the lines of images in both directions, [N, C, S, S], with what `blur_matrices` returned."""
    count, channels, side, _ = images.shape
    lines = images.reshape(count, channels * side, side)
    rows, result = torch.empty_like(lines), images.new_empty(count * channels, side, side)
    # The matrices are zero but for a band of `reach` on both sides of the diagonal.
    tiles = [
        (slice(start, start + _TILE), slice(max(0, start - reach), min(side, start + _TILE + reach)))
        for start in range(0, side, _TILE)
    ]
    for target, source in tiles:
        torch.bmm(lines[..., source], matrices[:, target, source].mT, out=rows[..., target])
    columns = rows.view(count * channels, side, side)
    for target, source in tiles:
        of_channels = matrices[:, target, source].repeat_interleave(channels, 0)
        torch.bmm(of_channels, columns[:, source], out=result[:, target])
    return result.view(images.shape)


def blur_matrices(radius: Tensor, side: int, device: torch.device) -> tuple[Tensor, int]:
    """Returns the matrices [N, S, S] that blur one line, on the device, and how far a pixel's value spreads in them."""
    if not len(radius):
        return torch.empty(0, side, side, device=device), 0
    whole_N, part_N = box_extents(radius)
    reach = _PASSES * (int(whole_N.max()) + 1)
    small = min(side, 4 * reach)  # so long a line has both borders and, in its middle, a row that sees neither
    blur_NMM = torch.linalg.matrix_power(to_device(_box_matrices(small, whole_N, part_N), device), _PASSES)
    if small == side:
        return blur_NMM, reach
    # Between the borders every row is the same kernel, one pixel further on: windows of one padded line.
    kernel_NK = blur_NMM[:, 2 * reach, reach : 3 * reach + 1]
    line_NL = torch.nn.functional.pad(kernel_NK, (side - 1 - reach, side - 1 - reach))
    blur_NSS = line_NL.unfold(1, side, 1).flip(1)
    blur_NSS[:, :reach, : 2 * reach] = blur_NMM[:, :reach, : 2 * reach]
    blur_NSS[:, -reach:, -2 * reach :] = blur_NMM[:, -reach:, -2 * reach :]
    return blur_NSS, reach


def box_extents(radius: Tensor) -> tuple[Tensor, Tensor]:
    """Returns each box's whole pixels on both sides and the weight of the next ones, as PIL derives them.

    The variance of three boxes is the Gaussian's (Gwosdek et al., Theoretical Foundations of Gaussian Convolution by
    Extended Box Filtering, 2011).

    Args:
        radius: of the Gaussian, in pixels, [N].

    Returns:
        int64 [N], and float32 [N] in [0, 1).
    """
    variance_N = radius.double().square() / _PASSES
    whole_N = (((12 * variance_N + 1).sqrt() - 1) / 2).floor()
    part_N = (2 * whole_N + 1) * (whole_N * (whole_N + 1) - 3 * variance_N) / (6 * (variance_N - (whole_N + 1) ** 2))
    return whole_N.long(), part_N.float()


def _box_matrices(side: int, whole_N: Tensor, part_N: Tensor) -> Tensor:
    """Returns one pass over a line, [N, side, side]; pixels beyond the border are those at the border."""
    matrices_NSS = torch.zeros(len(whole_N), side, side)
    place_S = torch.arange(side)
    widest = int(whole_N.max()) + 1
    for offset in range(-widest, widest + 1):
        weight_N = torch.where(whole_N >= abs(offset), 1.0, torch.where(whole_N + 1 == abs(offset), part_N, 0.0))
        matrices_NSS[:, place_S, (place_S + offset).clamp(0, side - 1)] += weight_N[:, None]
    return matrices_NSS / (2 * (whole_N + part_N) + 1)[:, None, None]
