"""The device's part of multi-crop views: flip, colour, blur, solarisation and normalisation of a whole batch.

The order and the distributions are those of the published per-image pipelines (PIL and torchvision): flip; colour
jitter, its four changes in random order for each image; grey; Gaussian blur; solarisation. Values stay in float32
between the steps, where PIL rounds to 8 bits after each.

Shapes: N crops of S × S pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from massl_bench.pretrain.config import CropConfig, ViewsConfig
from massl_bench.pretrain.data.blur import blur_lines, blur_matrices
from massl_bench.pretrain.transfer import to_device

_CPU_CHUNK = 1 << 18
"""Values of crops that a CPU works on at a time, so that they stay in its cache; a GPU takes all at once."""

_GREY = (0.299, 0.587, 0.114)

DARKEST = (1 / 2, 5 / 6, 1 / 6)
"""The hues, in turns, at which red, green and blue are smallest."""

NONE, BRIGHTNESS, CONTRAST, SATURATION, HUE = range(-1, 4)
"""Kinds of change, as `Photometric.order` numbers them."""


@dataclass
class Photometric:
    """What happens to each of N crops; on the CPU, so that no step waits for the device.

    Attributes:
        flip: bool [N].
        jitter: bool [N].
        order: int64 [N, 4], the order of brightness (0), contrast (1), saturation (2) and hue (3).
        factors: float32 [N, 4], the factor of each, and for hue the shift in turns.
        grey: bool [N].
        blur_radius: float32 [N], PIL's radius in pixels; 0 for no blur.
        solarise: bool [N].
    """

    flip: Tensor
    jitter: Tensor
    order: Tensor
    factors: Tensor
    grey: Tensor
    blur_radius: Tensor
    solarise: Tensor

    @classmethod
    def cat(cls, parts: Sequence[Photometric]) -> Photometric:
        """Returns the crops of all parts, one after the other."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels between processes as one tensor, float32 [N, 13]: each one costs a file descriptor of its own."""
        columns = [getattr(self, field.name).reshape(len(self.flip), -1).float() for field in fields(self)]
        return _unpacked, (torch.cat(columns, 1),)

    def rows(self, rows: slice) -> Photometric:
        """Returns some of the crops."""
        return Photometric(*(getattr(self, field.name)[rows] for field in fields(self)))


def _unpacked(numbers_NX: Tensor) -> Photometric:
    flip, jitter, order, factors, grey, blur_radius, solarise = torch.split(numbers_NX, [1, 1, 4, 4, 1, 1, 1], 1)
    return Photometric(
        flip=flip[:, 0].bool(),
        jitter=jitter[:, 0].bool(),
        order=order.long(),
        factors=factors.contiguous(),
        grey=grey[:, 0].bool(),
        blur_radius=blur_radius[:, 0].contiguous(),
        solarise=solarise[:, 0].bool(),
    )


def draw_photometric(views: ViewsConfig, crop: CropConfig, count: int, generator: torch.Generator) -> Photometric:
    """Draws what happens to `count` crops of one kind.

    Args:
        views: the probabilities and strengths that all views share.
        crop: those of this kind of view.
        count: N.
        generator: on the CPU.
    """
    uniform_N5 = torch.rand(count, 5, generator=generator)
    strengths_4 = torch.tensor([views.brightness, views.contrast, views.saturation, views.hue])
    factors_N4 = (2 * torch.rand(count, 4, generator=generator) - 1) * strengths_4 + torch.tensor([1.0, 1.0, 1.0, 0.0])
    low, high = views.blur_radius
    radius_N = low + (high - low) * torch.rand(count, generator=generator)
    return Photometric(
        flip=uniform_N5[:, 0] < views.flip,
        jitter=uniform_N5[:, 1] < views.jitter,
        # Sorting independent numbers gives every order with the same probability.
        order=torch.rand(count, 4, generator=generator).argsort(1),
        factors=factors_N4,
        grey=uniform_N5[:, 2] < views.grey,
        blur_radius=torch.where(uniform_N5[:, 3] < crop.blur, radius_N, 0.0),
        solarise=uniform_N5[:, 4] < crop.solarise,
    )


def photometric_views(pixels: Tensor, photometric: Photometric, views: ViewsConfig) -> Tensor:
    """Turns crops into the views that a network sees.

    Args:
        pixels: uint8 [N, 3, S, S], on the device that computes.
        photometric: what happens to each crop.
        views: threshold of the solarisation, mean and std.

    Returns:
        float32 [N, 3, S, S], normalised, on the same device.
    """
    plan = _Plan.of(photometric, pixels.shape[-1], pixels.device)
    if pixels.device.type == "cpu":
        # NumPy asks for large pages: the kernel hands small ones out in a fifth of the time of all this.
        result, chunk = torch.from_numpy(np.empty(pixels.shape, np.float32)), max(1, _CPU_CHUNK // pixels[0].numel())
    else:
        result, chunk = torch.empty(pixels.shape, device=pixels.device), len(pixels)
    for start in range(0, len(pixels), chunk):
        rows = slice(start, start + chunk)
        _apply(pixels[rows], plan.rows(rows), views, result[rows])
    return result


@dataclass
class _Plan:
    """The same as `Photometric`, as a step needs it: what the host decides by in lists, all else on the device.

    Attributes:
        flip, grey, solarise, blur: of N crops.
        kinds: of N crops, the kind of change in each of four turns, or NONE.
        weights_N43: of the crop, its mean luma and its luma in what a turn blends; 1, 0, 0 where it blends nothing.
        turns_N: shifts of the hue.
        matrices_MSS: of the M crops that are blurred.
        reach: of the blur.
    """

    flip: list[bool]
    grey: list[bool]
    solarise: list[bool]
    blur: list[bool]
    kinds: list[list[int]]
    weights_N43: Tensor
    turns_N: Tensor
    matrices_MSS: Tensor
    reach: int

    @classmethod
    def of(cls, photometric: Photometric, side: int, device: torch.device) -> _Plan:
        kinds_N4 = torch.where(photometric.jitter[:, None], photometric.order, NONE)
        blurred_N = photometric.blur_radius > 0
        matrices_MSS, reach = blur_matrices(photometric.blur_radius[blurred_N], side, device)
        return cls(
            flip=photometric.flip.tolist(),
            grey=photometric.grey.tolist(),
            solarise=photometric.solarise.tolist(),
            blur=blurred_N.tolist(),
            kinds=kinds_N4.tolist(),
            weights_N43=to_device(blend_weights(kinds_N4, photometric.factors), device),
            turns_N=to_device(photometric.factors[:, HUE], device),
            matrices_MSS=matrices_MSS,
            reach=reach,
        )

    def rows(self, rows: slice) -> _Plan:
        """Returns some of the crops."""
        before = sum(self.blur[: rows.start])
        blur = self.blur[rows]
        return _Plan(
            flip=self.flip[rows],
            grey=self.grey[rows],
            solarise=self.solarise[rows],
            blur=blur,
            kinds=self.kinds[rows],
            weights_N43=self.weights_N43[rows],
            turns_N=self.turns_N[rows],
            matrices_MSS=self.matrices_MSS[before : before + sum(blur)],
            reach=self.reach,
        )


def blend_weights(kinds: Tensor, factors: Tensor) -> Tensor:
    """Returns how brightness, contrast and saturation blend: f·x + (1 - f)·y, with y black, mean luma, or luma.

    Args:
        kinds: of the change in each turn, int64 [N, T]; `NONE` for none.
        factors: f of each kind, [N, 4].

    Returns:
        The weights of the crop, its mean luma and its luma, [N, T, 3]: 1, 0, 0 where hue changes, or nothing.
    """
    factor_NT = factors.gather(1, kinds.clamp(min=0))
    return torch.stack(
        [
            torch.where((kinds == NONE) | (kinds == HUE), 1.0, factor_NT),
            torch.where(kinds == CONTRAST, 1 - factor_NT, 0.0),
            torch.where(kinds == SATURATION, 1 - factor_NT, 0.0),
        ],
        2,
    )


def _apply(pixels_N3SS: Tensor, plan: _Plan, views: ViewsConfig, out_N3SS: Tensor) -> None:
    """Fills `out_N3SS`."""
    planes_N3SS = pixels_N3SS.clone(memory_format=torch.contiguous_format)
    pixels_N3SS = _change(planes_N3SS, plan.flip, lambda some_M3SS, _: some_M3SS.flip(3))
    images_N3SS = _jitter(pixels_N3SS.float().div_(255), plan)
    images_N3SS = _change(
        images_N3SS, plan.grey, lambda some_M3SS, _: _grey(some_M3SS).expand(-1, 3, -1, -1).contiguous()
    )
    images_N3SS = _change(
        images_N3SS, plan.blur, lambda some_M3SS, _: blur_lines(some_M3SS, plan.matrices_MSS, plan.reach)
    )
    threshold = solarisation_threshold(views)
    images_N3SS = _change(images_N3SS, plan.solarise, lambda some_M3SS, _: _solarised(some_M3SS, threshold))
    mean, std = (to_device(torch.tensor(values), out_N3SS.device).view(3, 1, 1) for values in (views.mean, views.std))
    torch.sub(images_N3SS, mean, out=out_N3SS).div_(std)


def _change(images_N3SS: Tensor, chosen: Sequence[bool], change: Callable[[Tensor, Tensor | slice], Tensor]) -> Tensor:
    """Returns the images with the chosen ones changed, in place where only some are; `change` gets their rows too."""
    if not any(chosen):
        return images_N3SS
    if all(chosen):
        return change(images_N3SS, slice(None))
    rows = to_device(torch.tensor([row for row, each in enumerate(chosen) if each]), images_N3SS.device)
    images_N3SS[rows] = change(images_N3SS[rows], rows)
    return images_N3SS


def luma(red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
    """Returns the luma of ITU-R 601, as PIL and torchvision compute it."""
    return torch.mul(red, _GREY[0]).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])


def _grey(images_N3SS: Tensor) -> Tensor:
    return luma(*images_N3SS.unbind(1)).unsqueeze(1)


def solarisation_threshold(views: ViewsConfig) -> float:
    """Returns the middle between the two 8-bit values on both sides of the threshold."""
    return (views.solarise_threshold - 0.5) / 255


def _solarised(images_N3SS: Tensor, threshold: float) -> Tensor:
    # A CPU is ten times as slow with booleans, and guesses wrong what `where` takes.
    above_N3SS = torch.ge(images_N3SS, threshold, out=torch.empty_like(images_N3SS))
    return torch.rsub(images_N3SS, 1, alpha=2).mul_(above_N3SS).add_(images_N3SS)


def _jitter(images_N3SS: Tensor, plan: _Plan) -> Tensor:
    """Changes brightness, contrast, saturation and hue, for each image in its own order.

    Each of the four rounds is one blend for all images but those whose turn it is to change hue, and a change of hue
    for those.
    """
    for turn, kinds in enumerate(zip(*plan.kinds, strict=True)):
        if any(kind not in (NONE, HUE) for kind in kinds):
            _blend(images_N3SS, plan.weights_N43[:, turn], contrast=CONTRAST in kinds, saturation=SATURATION in kinds)
        images_N3SS = _change(
            images_N3SS,
            [kind == HUE for kind in kinds],
            lambda some_M3SS, rows: shift_hue(some_M3SS, plan.turns_N[rows]),
        )
    return images_N3SS


def _blend(images_N3SS: Tensor, weights_N3: Tensor, *, contrast: bool, saturation: bool) -> None:
    """Replaces x by what `blend_weights` says, clamped to [0, 1]; the flags say whether any is of that kind."""
    own, of_mean, of_luma = weights_N3[..., None, None, None].unbind(1)
    if not (contrast or saturation):
        images_N3SS.mul_(own).clamp_(max=1)
        return
    luma_N1SS = _grey(images_N3SS)
    offset_N111 = of_mean * luma_N1SS.mean((1, 2, 3), keepdim=True) if contrast else torch.zeros_like(of_mean)
    if saturation:
        offset_N1SS = luma_N1SS.mul_(of_luma).add_(offset_N111) if contrast else luma_N1SS.mul_(of_luma)
        torch.addcmul(offset_N1SS, images_N3SS, own, out=images_N3SS).clamp_(0, 1)
    else:
        images_N3SS.mul_(own).add_(offset_N111).clamp_(0, 1)


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turns the hue of HSV; value and saturation stay.

    A colour of hue h (in turns), value v and chroma c has the channels v - c·clamp(2 - 6·|h - h_k|, 0, 1), with |·| the
    distance on the circle and h_k = 1/2, 5/6, 1/6: the hues at which red, green and blue are smallest.

    Args:
        images: float32 [N, 3, H, W] in [0, 1].
        turns: of each image, [N], on the same device; 1 is the whole circle.

    Returns:
        float32 [N, 3, H, W].
    """
    offset_N311 = torch.stack([turns - darkest for darkest in DARKEST], 1)[..., None, None]
    value, chroma, sixths = (each.unsqueeze(1) for each in value_chroma_hue(*images.unbind(1)))
    return turned_channel(value, chroma, sixths, offset_N311)


def value_chroma_hue(red: Tensor, green: Tensor, blue: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns value and chroma, and the hue in sixths of the circle, in [-3, 3] with red at 0.

    Without a case: 2 + (g + b - r - v) / c, on the side of the larger of green and blue.
    """
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # Grey pixels have chroma 0, and keep it.
    sixths = (green + blue).sub_(red).sub_(value).div_(chroma.clamp(min=1e-12)).add_(2)
    return value, chroma, sixths.copysign_(green - blue)


def turned_channel(value: Tensor, chroma: Tensor, sixths: Tensor, offset: Tensor) -> Tensor:
    """Returns channels of a hue that is turned by `offset`, of what `value_chroma_hue` returned.

    Args:
        value: broadcasts with the others.
        chroma: as well.
        sixths: hue, in sixths of the circle.
        offset: in whole circles; less the hue at which the channel is smallest, as `DARKEST` has it.
    """
    distance = torch.add(offset, sixths, alpha=1 / 6)
    distance = distance.sub_(distance.round()).abs_()
    return torch.addcmul(value, torch.rsub(distance, 2, alpha=6).clamp_(0, 1), chroma, value=-1)
