"""Test sets for a head that is trained on CIFAR-10, as arrays of pixels: CIFAR-10.1 and CIFAR-10-C.

CIFAR-10.1 (Recht et al., 2018) has two versions, v4 and v6, which is balanced. CIFAR-10-C (Hendrycks and Dietterich,
2019) has one file a corruption, with the test images at severity 1, then at 2, to 5, and one file of labels for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from massl_bench.core.errors import RequestError, one_line
from massl_bench.datasets.images.decoding import EncodedImage
from massl_bench.datasets.published.reader import PublishedReader
from massl_bench.datasets.splits import ImageSplit

_SIDE = 32
_SEVERITIES = 5
_C = "CIFAR-10-C"


class PixelFileSplit(ImageSplit):
    """Some rows of a file of pixels, uint8 [N, 32, 32, 3], which is mapped when it is first read."""

    def __init__(self, root: Path, name: str, labels: NDArray[np.int64], rows: range) -> None:
        self._root, self._name, self._rows = root, name, rows
        self._pixels: NDArray[np.uint8] | None = None
        self.labels, self.class_names = labels, None

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the pixels out: another process maps the file itself."""
        return {**vars(self), "_pixels": None}

    @override
    def __len__(self) -> int:
        return len(self._rows)

    @override
    def encoded(self, indices: Sequence[int]) -> list[EncodedImage]:
        if self._pixels is None:
            self._pixels = _array(self._root / self._name)
        return [np.array(self._pixels[self._rows[index]]) for index in indices]

    @override
    def locate(self, index: int) -> str:
        return f"{self._name}, row {self._rows[index]}"


def _array(path: Path) -> NDArray[Any]:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError) as error:
        raise RequestError(f"{path}: not an array of numpy's: {one_line(error)}; download it again") from None


def _checked(root: Path, images: str, labels: str) -> NDArray[np.int64]:
    """Returns the labels of a file of pixels, after a look at both files' headers."""
    pixels, found = _array(root / images), _array(root / labels)
    if pixels.dtype != np.uint8 or pixels.shape != (len(found), _SIDE, _SIDE, 3) or found.ndim != 1:
        raise RequestError(
            f"{root / images}: found {pixels.dtype} {list(pixels.shape)} for {found.shape[0]:,} labels, expected uint8 "
            f"[N, {_SIDE}, {_SIDE}, 3]; download it again"
        )
    return found.astype(np.int64)


def _cifar10_1(version: str) -> PublishedReader:
    images, labels = f"cifar10.1_{version}_data.npy", f"cifar10.1_{version}_labels.npy"

    def files(root: Path, source: str) -> list[Path]:
        return [root / images, root / labels]

    def read(root: Path, source: str) -> ImageSplit:
        found = _checked(root, images, labels)
        return PixelFileSplit(root, images, found, range(len(found)))

    return PublishedReader(marker=images, files=files, read=read, folders=("", "datasets"), sole=True)


def _c_files(root: Path, source: str) -> list[Path]:
    return [root / _C / f"{source.partition('/')[0]}.npy", root / _C / "labels.npy"]


def _c_read(root: Path, source: str) -> ImageSplit:
    corruption, _, severity = source.partition("/")
    images = f"{_C}/{corruption}.npy"
    labels = _checked(root, images, f"{_C}/labels.npy")
    count, left_over = divmod(len(labels), _SEVERITIES)
    if left_over:
        raise RequestError(
            f"{root / images}: {len(labels):,} images are not as many for each of {_SEVERITIES} severities"
        )
    rows = range(count * (int(severity) - 1), count * int(severity))
    return PixelFileSplit(root, images, labels[rows.start : rows.stop], rows)


CIFAR_TESTS: dict[str, PublishedReader] = {
    "cifar10.1": _cifar10_1("v6"),
    "cifar10.1-v4": _cifar10_1("v4"),
    "cifar10-c": PublishedReader(marker=f"{_C}/labels.npy", files=_c_files, read=_c_read, sole=True),
}
