"""What is compared of images to find duplicates: hashes of their files and of their pixels, and small grey pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from massl_bench.core.errors import CellError, one_line
from massl_bench.core.printable import printable
from massl_bench.datasets.images.decoding import DerivedImage, EncodedImage
from massl_bench.datasets.splits import ImageSplit
from massl_bench.datasets.twins import hash_of_file

_TOGETHER = 256


@dataclass(frozen=True, kw_only=True)
class Hashes:
    """Of the images of a split, in its order, hex sha256 each."""

    files: tuple[str, ...]
    """Of what is stored: equal for equal files."""
    pixels: tuple[str, ...]
    """Of the decoded pixels and their shape: equal for another file that shows exactly the same, too."""


def hashes_of(split: ImageSplit, progress: Callable[[int], None] = lambda _: None) -> Hashes:
    """Returns the hashes of a split's images; raises `CellError` for one that cannot be decoded."""

    def hashed(row: int) -> tuple[str, str]:
        (encoded,) = split.encoded([row])
        shown = np.asarray(_decoded(split, row, encoded))
        of_pixels = hashlib.sha256(f"{shown.shape}".encode() + shown.tobytes()).hexdigest()
        return of_pixels if isinstance(encoded, DerivedImage) else hash_of_file(encoded), of_pixels

    files, pixels = [], []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(split), _TOGETHER):
            rows = range(start, min(start + _TOGETHER, len(split)))
            for of_file, of_pixels in pool.map(hashed, rows):
                files.append(of_file)
                pixels.append(of_pixels)
            progress(len(rows))
    return Hashes(files=tuple(files), pixels=tuple(pixels))


def pictures_of(split: ImageSplit, rows: Sequence[int], side: int) -> NDArray[np.float32]:
    """Returns small grey pictures of some images, squashed, float32 [n, side, side], 0 to 255."""

    def made(row: int) -> NDArray[np.float32]:
        (encoded,) = split.encoded([row])
        return picture(_decoded(split, row, encoded), side)

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(made, rows))
    return np.stack(found) if found else np.empty((0, side, side), dtype=np.float32)


def picture(image: Image.Image, side: int) -> NDArray[np.float32]:
    """Returns an image as a small grey picture, squashed, float32 [side, side], 0 to 255."""
    small = image.convert("L").resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(small, dtype=np.float32)


def _decoded(split: ImageSplit, row: int, encoded: EncodedImage) -> Image.Image:
    try:
        return split.decode(encoded)
    except Exception as error:  # PIL's plugins raise errors of every kind for damaged files
        raise CellError(f"{printable(split.locate(row))}: {one_line(error)}; repair or remove it") from None
