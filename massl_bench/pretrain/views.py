"""The device's part of multi-crop views: flip, colour, blur, solarisation and normalisation of a whole batch.

The order and the distributions are those of the published per-image pipelines (PIL and torchvision): flip; colour
jitter, its four changes in random order for each image; grey; Gaussian blur; solarisation. Values stay in float32
between the steps, where PIL rounds to 8 bits after each.

Shapes: N crops of S × S pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from massl_bench.pretrain.config import CropConfig, ViewsConfig

_CPU_CHUNK_BYTES = 1 << 20
"""Float32 crops that a CPU works on at a time, so that they stay in its cache; a GPU takes all at once."""

_GREY = (0.299, 0.587, 0.114)
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)
_BLUR_PASSES = 3


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

    def rows(self, rows: slice) -> Photometric:
        """Returns some of the crops."""
        return Photometric(*(getattr(self, field.name)[rows] for field in fields(self)))


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
    if pixels.device.type != "cpu":
        return _apply(pixels, photometric, views)
    result = torch.empty(pixels.shape)
    chunk = max(1, _CPU_CHUNK_BYTES // (4 * pixels[0].numel()))
    for start in range(0, len(pixels), chunk):
        rows = slice(start, start + chunk)
        result[rows] = _apply(pixels[rows], photometric.rows(rows), views)
    return result


def _apply(pixels_N3SS: Tensor, photometric: Photometric, views: ViewsConfig) -> Tensor:
    device = pixels_N3SS.device
    images_N3SS = torch.empty(pixels_N3SS.shape, device=device)
    images_N3SS.copy_(pixels_N3SS)
    images_N3SS.div_(255)
    flipped = _where(photometric.flip, device)
    if flipped is not None:
        images_N3SS[flipped] = images_N3SS[flipped].flip(3)
    if photometric.jitter.any():
        _jitter(images_N3SS, photometric)
    greyed = _where(photometric.grey, device)
    if greyed is not None:
        images_N3SS[greyed] = _grey(images_N3SS[greyed]).expand(-1, 3, -1, -1)
    blurred = _where(photometric.blur_radius > 0, device)
    if blurred is not None:
        radii = photometric.blur_radius[photometric.blur_radius > 0]
        if len(radii) == len(images_N3SS):
            images_N3SS = gaussian_blur(images_N3SS, radii)
        else:
            images_N3SS[blurred] = gaussian_blur(images_N3SS[blurred], radii)
    solarised = _where(photometric.solarise, device)
    if solarised is not None:
        some_N3SS = images_N3SS[solarised]
        # The middle between the two 8-bit values on both sides of the threshold.
        threshold = (views.solarise_threshold - 0.5) / 255
        images_N3SS[solarised] = torch.where(some_N3SS < threshold, some_N3SS, 1 - some_N3SS)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (views.mean, views.std))
    return images_N3SS.sub_(mean).div_(std)


def _where(chosen_N: Tensor, device: torch.device) -> Tensor | None:
    """Returns the indices of the chosen crops on the device, or None where there is none."""
    indices = chosen_N.nonzero()[:, 0]
    return indices.to(device, non_blocking=True) if len(indices) else None


def _grey(images_N3SS: Tensor) -> Tensor:
    """Returns the luma [N, 1, S, S] of ITU-R 601, as PIL and torchvision compute it."""
    red, green, blue = images_N3SS.unbind(1)
    return torch.mul(red, _GREY[0]).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2]).unsqueeze(1)


def _jitter(images_N3SS: Tensor, photometric: Photometric) -> None:
    """Changes brightness, contrast, saturation and hue in place, for each image in its own order.

    Brightness, contrast and saturation are one formula: f·x + (1 - f)·y, with y black, the mean luma of the image, or
    the luma of the pixel. So each of the four rounds is one such blend for all images but those whose turn it is to
    change hue, and a change of hue for those.
    """
    device = images_N3SS.device
    jitter_N = photometric.jitter
    for turn_N in photometric.order.unbind(1):
        factor_N = photometric.factors.gather(1, turn_N[:, None])[:, 0]
        blends_N = jitter_N & (turn_N != _HUE)
        if blends_N.any():
            factor_N1 = torch.where(blends_N, factor_N, 1.0)
            other_N1 = [
                torch.where(blends_N & (turn_N == kind), 1 - factor_N, 0.0) for kind in (_CONTRAST, _SATURATION)
            ]
            _blend(images_N3SS, factor_N1, *other_N1)
        hues_N = jitter_N & (turn_N == _HUE)
        hued = _where(hues_N, device)
        if hued is not None:
            shift_N = factor_N[hues_N].to(device, non_blocking=True)
            if len(shift_N) == len(images_N3SS):
                _shift_hue(images_N3SS, shift_N)
            else:
                some_N3SS = images_N3SS[hued]
                _shift_hue(some_N3SS, shift_N)
                images_N3SS[hued] = some_N3SS


def _blend(images_N3SS: Tensor, factor_N: Tensor, contrast_N: Tensor, saturation_N: Tensor) -> None:
    """Replaces x by factor·x + contrast·(mean luma) + saturation·luma, clamped to [0, 1]."""

    def on_device(values_N: Tensor) -> Tensor:
        return values_N.to(images_N3SS.device, non_blocking=True).view(-1, 1, 1, 1)

    with_contrast, with_saturation = bool(contrast_N.any()), bool(saturation_N.any())
    if not (with_contrast or with_saturation):
        images_N3SS.mul_(on_device(factor_N)).clamp_(max=1)
        return
    grey_N1SS = _grey(images_N3SS)
    offset = on_device(contrast_N) * grey_N1SS.mean((1, 2, 3), keepdim=True)
    if with_saturation:
        offset = grey_N1SS.mul_(on_device(saturation_N)).add_(offset)
    images_N3SS.mul_(on_device(factor_N)).add_(offset).clamp_(0, 1)


def _shift_hue(images_N3SS: Tensor, shift_N: Tensor) -> None:
    """Turns the hue of HSV in place by `shift_N` (in turns); value and saturation stay.

    A colour of hue h (in turns), value v and chroma c has the channels v - c·clamp(2 - 6·|h - h_k|, 0, 1), with |·| the
    distance on the circle and h_k = 1/2, 5/6, 1/6: the hues at which red, green and blue are smallest.
    """
    red, green, blue = images_N3SS.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = torch.minimum(torch.minimum(red, green), blue).neg_().add_(value)
    sixth = chroma.clamp(min=1e-12).mul_(6).reciprocal_()  # grey pixels have chroma 0, and keep it
    from_red = (green - blue).mul_(sixth)
    from_green = (blue - red).mul_(sixth).add_(1 / 3)
    from_blue = (red - green).mul_(sixth).add_(2 / 3)
    hue = torch.where(value == red, from_red, torch.where(value == green, from_green, from_blue))
    hue.add_(shift_N.view(-1, 1, 1))
    for channel, darkest in ((red, 1 / 2), (green, 5 / 6), (blue, 1 / 6)):
        turn = hue - darkest
        distance = turn.sub_(turn.round()).abs_()
        torch.addcmul(value, distance.mul_(-6).add_(2).clamp_(0, 1), chroma, value=-1, out=channel)


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
    count, channels, side, _ = images.shape
    blur_NSS = _blur_matrices(radius, side).to(images.device, non_blocking=True)
    rows = torch.bmm(images.reshape(count, channels * side, side), blur_NSS.mT)
    return torch.matmul(blur_NSS[:, None], rows.view(count, channels, side, side))


def _blur_matrices(radius_N: Tensor, side: int) -> Tensor:
    """Returns the matrices [N, S, S] that blur one line."""
    extents = [_box_extent(radius) for radius in radius_N.tolist()]
    reach = _BLUR_PASSES * (max((whole for whole, _ in extents), default=0) + 1)
    small = min(side, 4 * reach)  # so long a line has both borders and, in its middle, a row that sees neither
    boxes = torch.stack([_box_matrix(small, whole, part) for whole, part in extents])
    blur_NMM = torch.linalg.matrix_power(boxes, _BLUR_PASSES)
    if small == side:
        return blur_NMM
    middle = 2 * reach
    kernel_NK = torch.nn.functional.pad(blur_NMM[:, middle, middle - reach : middle + reach + 1], (1, 1))
    place = torch.arange(side)
    offset_SS = (place - place[:, None]).clamp(-reach - 1, reach + 1) + reach + 1
    blur_NSS = kernel_NK[:, offset_SS]
    blur_NSS[:, :reach, : 2 * reach] = blur_NMM[:, :reach, : 2 * reach]
    blur_NSS[:, -reach:, -2 * reach :] = blur_NMM[:, -reach:, -2 * reach :]
    return blur_NSS


def _box_extent(radius: float) -> tuple[int, float]:
    """Returns the box's whole pixels on each side and the weight of the next ones, as PIL derives them.

    The variance of three boxes is the Gaussian's (Gwosdek et al., Theoretical Foundations of Gaussian Convolution by
    Extended Box Filtering, 2011).
    """
    variance = radius * radius / _BLUR_PASSES
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    return whole, part


def _box_matrix(side: int, whole: int, part: float) -> Tensor:
    """Returns one pass over a line of `side` pixels, [side, side]; pixels beyond the border are those at the border."""
    matrix = torch.zeros(side, side)
    place = torch.arange(side)
    for offset in range(-whole - 1, whole + 2):
        weight = (part if abs(offset) > whole else 1.0) / (2 * (whole + part) + 1)
        matrix.index_put_((place, (place + offset).clamp(0, side - 1)), torch.tensor(weight), accumulate=True)
    return matrix
