"""Images that stand in for a dataset where only time matters."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image
from typing_extensions import override

from massl_bench.datasets import EncodedImage, ImageSplit
from massl_bench.pretrain.config import ViewsConfig

_SMALL = 64
"""Views up to this side are of images that lie in memory as pixels, as those of CIFAR do."""


class SampleImages(ImageSplit):
    """One image, as often as it is asked for.

    Args:
        image: encoded.
        count: how many there are said to be.
    """

    labels, class_names = None, None

    def __init__(self, image: EncodedImage, count: int = 1 << 30) -> None:
        self._image, self._count = image, count

    @classmethod
    def like(cls, views: ViewsConfig) -> SampleImages:
        """Returns what such views are usually cut from: a JPEG of 500 × 375, or pixels as large as the global views."""
        side = views.global_1.size
        return cls(sample_photo() if side > _SMALL else _noise(side, side))

    @override
    def __len__(self) -> int:
        return self._count

    @override
    def encoded(self, indices: Sequence[int]) -> list[EncodedImage]:
        return [self._image for _ in indices]

    @override
    def locate(self, index: int) -> str:
        return f"sample {index}"


@lru_cache(maxsize=1)
def sample_photo() -> bytes:
    """Returns a JPEG of 500 × 375 with the frequencies of a soft photograph."""
    buffer = io.BytesIO()
    photo = Image.fromarray(_noise(24, 32)).resize((500, 375), Image.Resampling.BICUBIC)
    photo.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _noise(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
