"""An image through a model's preprocessing, up to the crop; the values are normalised on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from massl_bench.core.settings import Interpolation, Preprocessing


def apply_preprocessing(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Returns the resized and cropped image, uint8 [3, crop, crop], or [3, H, W] where there is no crop.

    The resize is PIL's (antialiased), rounded to uint8, as every published evaluation does it.
    """
    side = preprocessing.resize
    filtered = InterpolationMode(preprocessing.interpolation)
    match preprocessing.resize_mode:
        case "shortest":
            resized = transforms.resize(image, side, filtered)
        case "squash":
            resized = transforms.resize(image, [side, side], filtered)
        case "longest":
            # PIL's own thumbnail: far larger images are first reduced by whole factors, and smaller ones left alone.
            resized = image.copy()
            resized.thumbnail((side, side), Image.Resampling[filtered.name])
    if preprocessing.crop is not None:
        resized = transforms.center_crop(resized, [preprocessing.crop, preprocessing.crop])
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


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
