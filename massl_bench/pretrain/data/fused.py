"""The views of `photometric_views` in few passes over the pixels, for torch.compile.

Every image passes through the same changes, with numbers of its own that leave it as it is where it is not its turn:
three changes before the contrast, the mean luma, the contrast, three changes behind it. torch 2.11 makes five kernels
of what is before the blur, which is of matrices, and one of what is behind it.

Shapes: N crops of S × S pixels, M of them blurred.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from massl_bench.pretrain.compiling import allow_many_shapes
from massl_bench.pretrain.config import ViewsConfig
from massl_bench.pretrain.data.blur import gaussian_blur
from massl_bench.pretrain.data.views import (
    CONTRAST,
    DARKEST,
    HUE,
    NONE,
    Photometric,
    blend_weights,
    luma,
    solarisation_threshold,
    turned_channel,
    value_chroma_hue,
)
from massl_bench.pretrain.transfer import to_device

_TURNS = 3
"""Changes on either side of the contrast, at most."""

Planes = tuple[Tensor, Tensor, Tensor]
"""Red, green and blue, [N, S, S]: a kernel that computes one has the other two at hand."""


def fused_views(pixels: Tensor, photometric: Photometric, views: ViewsConfig) -> Tensor:
    """Turns crops into the views that a network sees, as `photometric_views` does; the first calls compile.

    Args:
        pixels: uint8 [N, 3, S, S], on the device that computes. Kernels are compiled for each N and S.
        photometric: what happens to each crop.
        views: threshold of the solarisation, mean and std.

    Returns:
        float32 [N, 3, S, S], normalised, on the same device.
    """
    device = pixels.device
    numbers_NX = to_device(_numbers(photometric), device)
    images_N3SS = _compiled(_coloured)(pixels.contiguous(), numbers_NX)
    blurred_N = photometric.blur_radius > 0
    if blurred_N.any():
        rows_M = to_device(blurred_N.nonzero()[:, 0], device)
        blurred_M3SS = gaussian_blur(images_N3SS.index_select(0, rows_M), photometric.blur_radius[blurred_N])
        images_N3SS.index_copy_(0, rows_M, blurred_M3SS)
    mean_and_std = to_device(torch.tensor([views.mean, views.std]), device)
    return _compiled(_finished)(images_N3SS, numbers_NX, mean_and_std, solarisation_threshold(views))


@cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    allow_many_shapes()
    compiled: Any = torch.compile(function, dynamic=False)
    return compiled  # type: ignore[no-any-return]


def _numbers(photometric: Photometric) -> Tensor:
    """Returns flip, grey, solarise, two weights of contrast and three of six changes each, float32 [N, 3 + 2 + 18]."""
    kinds_N4 = torch.where(photometric.jitter[:, None], photometric.order, NONE)
    # Nothing is behind the contrast where there is none, as without jitter.
    is_contrast_N4 = kinds_N4 == CONTRAST
    place_N1 = torch.where(is_contrast_N4.any(1), is_contrast_N4.int().argmax(1), 4)[:, None]
    before_N3 = torch.where(torch.arange(_TURNS) < place_N1, kinds_N4[:, :_TURNS], NONE)
    behind_N3 = torch.where(torch.arange(1, _TURNS + 1) > place_N1, kinds_N4[:, 1:], NONE)
    turns_N6 = torch.cat([before_N3, behind_N3], 1)
    weights_N63 = blend_weights(turns_N6, photometric.factors)
    hue_N6 = torch.where(turns_N6 == HUE, photometric.factors[:, HUE:], torch.inf)
    contrast_N1 = torch.where(place_N1 < 4, CONTRAST, NONE)
    flags_N3 = torch.stack([photometric.flip, photometric.grey, photometric.solarise], 1).float()
    changes_N64 = torch.cat([weights_N63[..., ::2], hue_N6[..., None]], 2)
    return torch.cat([flags_N3, blend_weights(contrast_N1, photometric.factors)[:, 0, :2], changes_N64.flatten(1)], 1)


def _coloured(pixels_N3SS: Tensor, numbers_NX: Tensor) -> Tensor:
    """Returns flip, jitter and grey of [N, 3, S, S]."""
    of_N11 = [column[:, None, None] for column in numbers_NX.unbind(1)]
    flip_N11, grey_N11, own, of_mean = of_N11[0] > 0, of_N11[1] > 0, of_N11[3], of_N11[4]
    changes = [tuple(of_N11[start : start + 3]) for start in range(5, len(of_N11), 3)]
    planes = [torch.where(flip_N11, plane.flip(2), plane).float() / 255 for plane in pixels_N3SS.unbind(1)]
    red, green, blue = planes
    for change in changes[:_TURNS]:
        red, green, blue = _changed((red, green, blue), *change)
    offset_N11 = of_mean * luma(red, green, blue).mean((1, 2), keepdim=True)
    red, green, blue = ((plane * own + offset_N11).clamp(0, 1) for plane in (red, green, blue))
    for change in changes[_TURNS:]:
        red, green, blue = _changed((red, green, blue), *change)
    luma_NSS = luma(red, green, blue)
    return torch.stack([torch.where(grey_N11, luma_NSS, plane) for plane in (red, green, blue)], 1)


def _changed(planes: Planes, own: Tensor, of_luma: Tensor, turns: Tensor) -> Planes:
    """Returns brightness, saturation, hue or nothing changed; the hue of each image turns, or is infinite for none."""
    red, green, blue = planes
    offset_NSS = of_luma * luma(red, green, blue)
    blended = [(plane * own + offset_NSS).clamp(0, 1) for plane in planes]
    parts = value_chroma_hue(red, green, blue)
    finite = turns.isfinite()
    shift = torch.where(finite, turns, 0.0)
    red, green, blue = (
        torch.where(finite, turned_channel(*parts, shift - darkest), plane)
        for plane, darkest in zip(blended, DARKEST, strict=True)
    )
    return red, green, blue


def _finished(images_N3SS: Tensor, numbers_NX: Tensor, mean_and_std_23: Tensor, threshold: float) -> Tensor:
    """Returns solarisation and normalisation."""
    inverted = (numbers_NX[:, 2] > 0)[:, None, None, None] & (images_N3SS >= threshold)
    mean_311, std_311 = mean_and_std_23[..., None, None].unbind(0)
    return (torch.where(inverted, 1 - images_N3SS, images_N3SS) - mean_311) / std_311
