"""An image through a model's preprocessing, up to the crop; the values are normalised on the device."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from massl_bench.types import Preprocessing


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
