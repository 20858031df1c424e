"""Boxes of random crops, for pretraining's views and for those of augmented evaluation. Shapes: V views, A attempts."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_ATTEMPTS = 10
"""Boxes that torchvision's RandomResizedCrop tries before it falls back to the centre."""

UNIFORMS = 2 * _ATTEMPTS + 2
"""U, random numbers behind one box."""


def crop_boxes(
    width: int,
    height: int,
    scales_V2: NDArray[np.float64],
    ratio: tuple[float, float],
    uniform_VU: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Returns random boxes with the distribution of torchvision's RandomResizedCrop.

    The box's share of the area is uniform in the scale, its width over its height uniform in the logarithm, its place
    uniform; the first of ten such boxes that fits the image is taken, else the largest centred one of an allowed ratio.

    Args:
        width: of the image, in pixels.
        height: of the image.
        scales_V2: range of the share of the area, for every view.
        ratio: range of width over height.
        uniform_VU: independent numbers in [0, 1), [V, U]: shares and ratios of the attempts, and the place.

    Returns:
        left, top, width and height of every box, [V, 4].
    """
    low_V1, high_V1 = scales_V2[:, :1], scales_V2[:, 1:]
    area_VA = width * height * (low_V1 + (high_V1 - low_V1) * uniform_VU[:, :_ATTEMPTS])
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    aspect_VA = np.exp(log_low + (log_high - log_low) * uniform_VU[:, _ATTEMPTS : 2 * _ATTEMPTS])
    width_VA = np.rint(np.sqrt(area_VA * aspect_VA)).astype(np.int64)
    height_VA = np.rint(np.sqrt(area_VA / aspect_VA)).astype(np.int64)
    fits_VA = (width_VA > 0) & (width_VA <= width) & (height_VA > 0) & (height_VA <= height)

    boxes_V4 = np.empty((len(uniform_VU), 4), dtype=np.int64)
    views, first_V = np.arange(len(uniform_VU)), fits_VA.argmax(1)
    box_width_V, box_height_V = width_VA[views, first_V], height_VA[views, first_V]
    boxes_V4[:, 0] = uniform_VU[:, -2] * (width - box_width_V + 1)
    boxes_V4[:, 1] = uniform_VU[:, -1] * (height - box_height_V + 1)
    boxes_V4[:, 2], boxes_V4[:, 3] = box_width_V, box_height_V
    none_V = ~fits_VA.any(1)
    if none_V.any():
        centre_width = min(width, round(height * ratio[1]))
        centre_height = min(height, round(width / ratio[0]))
        boxes_V4[none_V] = (
            (width - centre_width) // 2,
            (height - centre_height) // 2,
            centre_width,
            centre_height,
        )
    return boxes_V4
