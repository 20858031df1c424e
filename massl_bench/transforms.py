"""An image through a model's preprocessing, up to the crop; the values are normalised on the device."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from massl_bench.types import Preprocessing


def apply_preprocessing(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Returns the resized and cropped image, uint8 [3, crop, crop].

    The resize is PIL's (antialiased), rounded to uint8, as every published evaluation does it.
    """
    size: int | list[int] = preprocessing.resize
    if preprocessing.resize_mode == "squash":
        size = [preprocessing.resize, preprocessing.resize]
    resized = transforms.resize(image, size, InterpolationMode(preprocessing.interpolation))
    cropped = transforms.center_crop(resized, [preprocessing.crop, preprocessing.crop])
    return np.ascontiguousarray(np.asarray(cropped).transpose(2, 0, 1))
