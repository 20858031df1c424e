"""How well one picture is a piece of another: normalised cross-correlation over scales and places.

A copy that went through JPEG, was resized, or was cropped without a turn lies somewhere in its original, at some scale.
Both pictures are squashed to one side, so that a piece of the same aspect stays one. What is compared is the detail of
the pictures, without what a wide blur leaves of them: two landscapes are both bright above and dark below.

Shapes: P pairs, S the side of the pictures, s that of a piece.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 32
"""S, in pixels."""
_BLUR = 4.0
"""Standard deviation of the blur that is taken away, in pixels."""
_SCALES = (1.0, 0.97, 0.94, 0.92, 0.894, 0.87, 0.84, 0.8, 0.75, 0.7)
"""Sides of a piece, of the whole: from all of it to half its area."""
_PAIRS_TOGETHER = 128
LEAST_DETAIL = 4.0
"""Standard deviation of the detail, in grey levels, below which nothing can be told: of a clear sky only noise is left,
and its correlation with anything is counted as low."""


def details(pictures_PSS: Tensor) -> Tensor:
    """Returns grey pictures, float32 [P, S, S], without their blurred selves."""
    reach = int(3 * _BLUR) // 2
    offset = torch.arange(-reach, reach + 1, dtype=torch.float32)
    weight = torch.exp(-(offset**2) / (2 * _BLUR**2))
    weight /= weight.sum()
    padded = functional.pad(pictures_PSS[:, None], [reach] * 4, mode="reflect")
    blurred = functional.conv2d(functional.conv2d(padded, weight[None, None, :, None]), weight[None, None, None, :])
    return pictures_PSS - blurred[:, 0]


def correlation(one_PSS: Tensor, other_PSS: Tensor) -> Tensor:
    """Returns the largest correlation of either picture with a piece of the other, float32 [P] in [−1, 1].

    Args:
        one_PSS: `details` of one picture of each pair.
        other_PSS: of the other.
    """
    found = []
    for start in range(0, len(one_PSS), _PAIRS_TOGETHER):
        rows = slice(start, start + _PAIRS_TOGETHER)
        pairs = one_PSS[rows], other_PSS[rows]
        found.append(torch.maximum(_as_piece(*pairs), _as_piece(*reversed(pairs))))
    return torch.cat(found) if found else torch.empty(0)


def _as_piece(piece_PSS: Tensor, whole_PSS: Tensor) -> Tensor:
    """Returns the largest correlation of a picture with a piece of the other one, [P]."""
    best_P = torch.full((len(piece_PSS),), -1.0)
    for scale in _SCALES:
        side = round(scale * SIDE)
        small = piece_PSS[:, None]
        if side < SIDE:
            small = functional.interpolate(small, size=(side, side), mode="bilinear", antialias=True)
        small = small - small.mean((2, 3), keepdim=True)
        least = side * LEAST_DETAIL
        norm_P = small.flatten(1).norm(dim=1).clamp_min(least)
        product = functional.conv2d(whole_PSS[None], small / norm_P[:, None, None, None], groups=len(small))[0]
        ones = torch.ones(1, 1, side, side)
        total, square = (functional.conv2d(each[:, None], ones)[:, 0] for each in (whole_PSS, whole_PSS**2))
        variance = (square - total**2 / side**2).clamp_min(least**2)
        best_P = torch.maximum(best_P, (product / variance.sqrt()).flatten(1).amax(1))
    return best_P
