"""Data that libraries embed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from massl_bench.datasets.published.reader import PublishedReader
from massl_bench.datasets.splits import ArraySplit, ImageSplit
from massl_bench.specs.dataset import PatchGrid


def _read_digits(_: Path, source: str) -> ImageSplit:
    """Returns scikit-learn's digits: grey values 0-16 spread over 0-255; the first 1,347 train, the last 450 test."""
    from sklearn.datasets import load_digits

    content = load_digits()
    rows = slice(0, 1347) if source == "train" else slice(1347, None)
    grey = np.rint(content.images[rows] * (255 / 16)).astype(np.uint8)
    return ArraySplit(
        f"digits/{source}",
        np.repeat(grey[..., None], 3, axis=-1),
        content.target[rows].astype(np.int64),
        tuple(str(name) for name in content.target_names),
    )


class _PatchSplit(ArraySplit):
    """Patches, uint8 [N, side, side, 3], that are called after the place that they were cut from."""

    def __init__(self, pixels: NDArray[np.uint8], names: Sequence[str]) -> None:
        super().__init__("patches", pixels, None, None)
        self._names = list(names)

    @override
    def locate(self, index: int) -> str:
        return self._names[index]


def read_patches(grid: PatchGrid) -> ImageSplit:
    """Returns the patches of scikit-learn's two photographs, china.jpg and flower.jpg, row by row."""
    from sklearn.datasets import load_sample_images

    content = load_sample_images()
    pixels, names = [], []
    for photograph, file in zip(content.images, content.filenames, strict=True):
        height, width, _ = photograph.shape
        for top in range(0, height - grid.side + 1, grid.stride):
            for left in range(0, width - grid.side + 1, grid.stride):
                pixels.append(photograph[top : top + grid.side, left : left + grid.side])
                names.append(f"{Path(file).name}, row {top}, column {left}")
    return _PatchSplit(np.stack(pixels), names)


DIGITS = PublishedReader(marker=None, files=lambda _root, _source: [], read=_read_digits)
