"""Many crops of small images, resized at once as two batches of matrix products.

Small crops cost their calls, not their arithmetic. Resizing along one side is a matrix whose rows are the filter around
each new pixel, so that all crops of a batch are two products. torch resizes uint8 in fixed point: with integer weights
over a power of two, rounded after each side. The same integers in a float of enough digits give the same bytes.

Shapes: N images, V views of them, S side of a view; H, W sides of the images; C = 3 channels.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LARGEST_SIDE = 40
"""Of an image and of a view, in pixels: beyond it the zeros of the matrices cost more than calls do."""

_SUPPORT = 2.0
_AT_ONCE = 64
"""Images that are worked on at a time, so that they stay in a core's cache."""


def resize_crops(images_NHWC: NDArray[np.uint8], boxes_VN4: NDArray[np.int64], side: int) -> Tensor:
    """Cuts boxes out of each image and resizes them, as torch's antialiased bicubic interpolation does, to the bit.

    Args:
        images_NHWC: of at most `LARGEST_SIDE` pixels a side.
        boxes_VN4: left, top, width and height, inside the images.
        side: S.

    Returns:
        uint8 [V, N, 3, S, S].
    """
    count, height, width, _ = images_NHWC.shape
    largest = int(boxes_VN4[..., 2:].max())
    dtype = torch.float32 if largest <= _largest_in_float32(side) else torch.float64
    across, down = _all_filters(width, side, dtype), _all_filters(height, side, dtype)
    across_VN = torch.from_numpy(boxes_VN4[..., 0] * (width + 1) + boxes_VN4[..., 2])
    down_VN = torch.from_numpy(boxes_VN4[..., 1] * (height + 1) + boxes_VN4[..., 3])
    out = torch.empty(len(boxes_VN4), count, 3, side, side, dtype=torch.uint8)
    for start in range(0, count, _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        pixels_nHCW = torch.from_numpy(images_NHWC[rows]).permute(0, 1, 3, 2).contiguous()
        pixels_nxW = pixels_nHCW.to(dtype).view(len(pixels_nHCW), -1, width)
        for view_NCSS, across_N, down_N in zip(out, across_VN, down_VN, strict=True):
            wide_nxS = _rounded(torch.bmm(pixels_nxW, across.index_select(0, across_N[rows]).mT))
            wide_nHx = wide_nxS.view(len(wide_nxS), height, -1)
            small_nSx = _rounded(torch.bmm(down.index_select(0, down_N[rows]), wide_nHx)).to(torch.uint8)
            view_NCSS[rows] = small_nSx.view(-1, side, 3, side).permute(0, 2, 1, 3)
    return out


def _rounded(values: Tensor) -> Tensor:
    """Rounds in place, halves up, to what 8 bits hold."""
    return values.add_(0.5).floor_().clamp_(0, 255)


@lru_cache(maxsize=16)
def _all_filters(length: int, side: int, dtype: torch.dtype) -> Tensor:
    """Returns the matrices [(length + 1)², side, length] of every interval, at row `start · (length + 1) + size`."""
    filters = torch.zeros(length + 1, length + 1, side, length, dtype=dtype)
    for size in range(1, length + 1):
        matrix = torch.from_numpy(_filter(size, side)[0])
        for start in range(length - size + 1):
            filters[start, size, :, start : start + size] = matrix
    return filters.view(-1, side, length)


@lru_cache(maxsize=16)
def _largest_in_float32(side: int) -> int:
    """Returns the size up to which sums of weights times pixels are integers below 2^24, which float32 holds."""
    size = 0
    while size < LARGEST_SIDE:
        weights, digits = _filter(size + 1, side)
        if np.abs(weights).sum(1).max() * 255 * 2**digits >= 1 << 24:
            break
        size += 1
    return size


def _filter(size: int, side: int) -> tuple[NDArray[np.float64], int]:
    """Returns the weights [side, size] of the pixels of a resized side, integers over a power of two, and that power.

    Keys's cubic with a = -0.5 (1981), as wide as the old pixels or the new ones, whichever are wider.
    """
    scale = size / side
    stretch = max(scale, 1.0)
    weights = np.zeros((side, size))
    for row in range(side):
        centre = scale * (row + 0.5)
        first = max(int(centre - _SUPPORT * stretch + 0.5), 0)
        last = min(int(centre + _SUPPORT * stretch + 0.5), size)
        distance = np.abs((np.arange(first, last) - centre + 0.5) / stretch)
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        values = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
        weights[row, first:last] = values / values.sum()
    digits = 0
    while digits < 22 and int(0.5 + weights.max() * 2 ** (digits + 1)) < 1 << 15:
        digits += 1
    whole = np.trunc(weights * 2**digits + np.copysign(0.5, weights))
    return whole / 2**digits, digits
