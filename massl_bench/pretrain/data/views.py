"""The device's part of multi-crop views: flip, colour, blur, solarisation and normalisation of a whole batch.

The order and the distributions are those of the published per-image pipelines (PIL and torchvision): flip; colour
jitter, its four changes in random order for each image; grey; Gaussian blur; solarisation. Values stay in float32
between the steps, where PIL rounds to 8 bits after each.

Shapes: N crops of S × S pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor

from massl_bench.pretrain.config import CropConfig, ViewsConfig
from massl_bench.pretrain.transfer import to_device

_CPU_CHUNK_BYTES = 1 << 20
"""Float32 crops that a CPU works on at a time, so that they stay in its cache; a GPU takes all at once."""

_GREY = (0.299, 0.587, 0.114)
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)
_BLUR_PASSES = 3
_BLUR_TILE = 48


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
    pixels_N3SS = _change(pixels_N3SS.clone(), photometric.flip, lambda some_M3SS: some_M3SS.flip(3))
    images_N3SS = pixels_N3SS.float().div_(255)
    if photometric.jitter.any():
        images_N3SS = _jitter(images_N3SS, photometric)
    images_N3SS = _change(
        images_N3SS, photometric.grey, lambda some_M3SS: _grey(some_M3SS).expand(-1, 3, -1, -1).contiguous()
    )
    blurred_N = photometric.blur_radius > 0
    radius_M = photometric.blur_radius[blurred_N]
    images_N3SS = _change(images_N3SS, blurred_N, lambda some_M3SS: gaussian_blur(some_M3SS, radius_M))
    # The middle between the two 8-bit values on both sides of the threshold.
    threshold = (views.solarise_threshold - 0.5) / 255
    images_N3SS = _change(
        images_N3SS,
        photometric.solarise,
        lambda some_M3SS: torch.where(some_M3SS < threshold, some_M3SS, 1 - some_M3SS),
    )
    mean, std = (to_device(torch.tensor(values), device).view(3, 1, 1) for values in (views.mean, views.std))
    return images_N3SS.sub_(mean).div_(std)


def _change(images_N3SS: Tensor, chosen_N: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns the images with the chosen ones changed, in place where only some are."""
    indices = chosen_N.nonzero()[:, 0]
    if len(indices) == 0:
        return images_N3SS
    if len(indices) == len(images_N3SS):
        return change(images_N3SS)
    indices = to_device(indices, images_N3SS.device)
    images_N3SS[indices] = change(images_N3SS[indices])
    return images_N3SS


def _grey(images_N3SS: Tensor) -> Tensor:
    """Returns the luma [N, 1, S, S] of ITU-R 601, as PIL and torchvision compute it."""
    red, green, blue = images_N3SS.unbind(1)
    return torch.mul(red, _GREY[0]).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2]).unsqueeze(1)


def _jitter(images_N3SS: Tensor, photometric: Photometric) -> Tensor:
    """Changes brightness, contrast, saturation and hue, for each image in its own order.

    Brightness, contrast and saturation are one formula: f·x + (1 - f)·y, with y black, the mean luma of the image, or
    the luma of the pixel. So each of the four rounds is one such blend for all images but those whose turn it is to
    change hue, and a change of hue for those.
    """
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
        shift_M = to_device(factor_N[hues_N], images_N3SS.device)
        images_N3SS = _change(images_N3SS, hues_N, partial(shift_hue, turns=shift_M))
    return images_N3SS


def _blend(images_N3SS: Tensor, factor_N: Tensor, contrast_N: Tensor, saturation_N: Tensor) -> None:
    """Replaces x by factor·x + contrast·(mean luma) + saturation·luma, clamped to [0, 1]."""

    def on_device(values_N: Tensor) -> Tensor:
        return to_device(values_N, images_N3SS.device).view(-1, 1, 1, 1)

    with_contrast, with_saturation = bool(contrast_N.any()), bool(saturation_N.any())
    if not (with_contrast or with_saturation):
        images_N3SS.mul_(on_device(factor_N)).clamp_(max=1)
        return
    grey_N1SS = _grey(images_N3SS)
    offset = on_device(contrast_N) * grey_N1SS.mean((1, 2, 3), keepdim=True)
    if with_saturation:
        offset = grey_N1SS.mul_(on_device(saturation_N)).add_(offset)
    images_N3SS.mul_(on_device(factor_N)).add_(offset).clamp_(0, 1)


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turns the hue of HSV; value and saturation stay.

    A colour of hue h (in turns), value v and chroma c has the channels v - c·clamp(2 - 6·|h - h_k|, 0, 1), with |·| the
    distance on the circle and h_k = 1/2, 5/6, 1/6: the hues at which red, green and blue are smallest.

    Args:
        images: float32 [N, 3, H, W] in [0, 1]; changed in place.
        turns: of each image, [N], on the same device; 1 is the whole circle.

    Returns:
        `images`.
    """
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = torch.minimum(torch.minimum(red, green), blue).neg_().add_(value)
    sixth = chroma.clamp(min=1e-12).mul_(6).reciprocal_()  # grey pixels have chroma 0, and keep it
    from_red = (green - blue).mul_(sixth)
    from_green = (blue - red).mul_(sixth).add_(1 / 3)
    from_blue = (red - green).mul_(sixth).add_(2 / 3)
    hue = torch.where(value == red, from_red, torch.where(value == green, from_green, from_blue))
    hue.add_(turns.view(-1, 1, 1))
    for channel, darkest in ((red, 1 / 2), (green, 5 / 6), (blue, 1 / 6)):
        turn = hue - darkest
        distance = turn.sub_(turn.round()).abs_()
        torch.addcmul(value, distance.mul_(-6).add_(2).clamp_(0, 1), chroma, value=-1, out=channel)
    return images


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
    blur_NSS, reach = _blur_matrices(radius, side, images.device)
    lines = images.reshape(count, channels * side, side)
    rows = torch.empty_like(lines)
    result = torch.empty_like(images)
    # The matrices are zero but for a band of `reach` on both sides of the diagonal.
    tiles = [
        (slice(start, start + _BLUR_TILE), slice(max(0, start - reach), min(side, start + _BLUR_TILE + reach)))
        for start in range(0, side, _BLUR_TILE)
    ]
    for target, source in tiles:
        rows[..., target] = torch.bmm(lines[..., source], blur_NSS[:, target, source].mT)
    rows = rows.view(count, channels, side, side)
    for target, source in tiles:
        result[:, :, target] = torch.matmul(blur_NSS[:, None, target, source], rows[:, :, source])
    return result


def _blur_matrices(radius_N: Tensor, side: int, device: torch.device) -> tuple[Tensor, int]:
    """Returns the matrices [N, S, S] that blur one line, on the device, and how far a pixel's value spreads in them."""
    whole_N, part_N = box_extents(radius_N)
    reach = _BLUR_PASSES * (int(whole_N.max()) + 1)
    small = min(side, 4 * reach)  # so long a line has both borders and, in its middle, a row that sees neither
    blur_NMM = to_device(torch.linalg.matrix_power(_box_matrices(small, whole_N, part_N), _BLUR_PASSES), device)
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
    variance_N = radius.double().square() / _BLUR_PASSES
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
