"""An image through a model's preprocessing, up to the crop; the values are normalised on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from massl_bench.core.settings import Interpolation, Preprocessing
from massl_bench.datasets.images.decoding import MAX_PIXELS, ImageLimitError

_LONGEST_PIXELS = 1 << 25
"""Of a resized image: a longer one (for a side of 256, more than 512 times as long as wide) is made only where the crop
sees it. Filter and places are the same; PIL may choose another order of the two directions for a part, which rounds
some values otherwise. No published dataset has such images."""

_FILTER_RADIUS = 3
"""In pixels, of the widest filter (Lanczos)."""


def apply_preprocessing(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Returns the resized and cropped image, uint8 [3, crop, crop], or [3, H, W] where there is no crop.

    The resize is PIL's (antialiased), rounded to uint8, as every published evaluation does it.
    """
    side = preprocessing.resize
    filtered = InterpolationMode(preprocessing.interpolation)
    match preprocessing.resize_mode:
        case "shortest":
            resized = _resize_shortest(image, side, preprocessing.crop, filtered)
        case "squash":
            resized = transforms.resize(image, [side, side], filtered)
        case "longest":
            # PIL's own thumbnail: far larger images are first reduced by whole factors, and smaller ones left alone.
            resized = image.copy()
            resized.thumbnail((side, side), Image.Resampling[filtered.name])
    if preprocessing.crop is not None:
        resized = transforms.center_crop(resized, [preprocessing.crop, preprocessing.crop])
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def _resize_shortest(image: Image.Image, side: int, crop: int | None, filtered: InterpolationMode) -> Image.Image:
    """Returns the image with its shorter side resized to `side`, or of a very long one what a crop can see.

    Raises:
        ImageLimitError: There is no crop, and the result would be larger than an image may be.
    """
    long = int(side * max(image.size) / min(image.size))  # as torchvision rounds it
    if crop is None and long * side > MAX_PIXELS:
        raise ImageLimitError(f"resized, it would have {side:,} × {long:,}", MAX_PIXELS)
    if crop is None or long * side <= _LONGEST_PIXELS:
        resized: Image.Image = transforms.resize(image, side, filtered)
        return resized
    first = round((long - crop) / 2)  # as torchvision rounds it
    scale = max(image.size) / long
    # What the filters of the crop's pixels reach, and a pixel more: the rest of the image need not be looked at.
    reach = math.ceil(_FILTER_RADIUS * max(scale, 1.0)) + 1
    start = max(0, math.floor(first * scale) - reach)
    end = min(max(image.size), math.ceil((first + crop) * scale) + reach)
    part = (first * scale - start, (first + crop) * scale - start)
    method = Image.Resampling[filtered.name]
    if image.width <= image.height:
        seen = image.crop((0, start, image.width, end))
        return seen.resize((side, crop), method, box=(0, part[0], image.width, part[1]))
    seen = image.crop((start, 0, end, image.height))
    return seen.resize((crop, side), method, box=(part[0], 0, part[1], image.height))


def cut_view(
    image: Image.Image, box: Sequence[int], side: int, interpolation: Interpolation, *, mirrored: bool
) -> NDArray[np.uint8]:
    """Returns a part of the image as a square view, uint8 [3, side, side].

    Args:
        image: RGB.
        box: left, top, width and height of the part, in pixels.
        side: of the view.
        interpolation: of the resize, which is PIL's (antialiased), as torchvision's RandomResizedCrop has it.
        mirrored: whether left and right are exchanged.
    """
    left, top, width, height = box
    view = transforms.resized_crop(image, top, left, height, width, [side, side], InterpolationMode(interpolation))
    if mirrored:
        view = transforms.hflip(view)
    return np.ascontiguousarray(np.asarray(view).transpose(2, 0, 1))


def jitter_view(
    view_3SS: NDArray[np.uint8], strength: float, probability: float, uniform_8: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Returns a view with other colours: brightness, contrast, saturation and hue change, each or not, in this order.

    Args:
        view_3SS: RGB.
        strength: factors are within 1 ± this, the turn of the hue within ± this.
        probability: of each change.
        uniform_8: in [0, 1): for each change whether, and how much.
    """
    view = Image.fromarray(np.ascontiguousarray(view_3SS.transpose(1, 2, 0)))
    unchanged = (
        (transforms.adjust_brightness, 1),
        (transforms.adjust_contrast, 1),
        (transforms.adjust_saturation, 1),
        (transforms.adjust_hue, 0),
    )
    for (change, middle), (drawn, amount) in zip(unchanged, uniform_8.reshape(4, 2).tolist(), strict=True):
        if drawn < probability:
            view = change(view, middle + strength * (2 * amount - 1))
    return np.ascontiguousarray(np.asarray(view).transpose(2, 0, 1))
