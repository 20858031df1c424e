"""STL-10's binary version: raw planes, column by column (Coates, Ng and Lee, 2011)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from massl_bench.core.errors import RequestError
from massl_bench.datasets.published.reader import PublishedReader, read_lines
from massl_bench.datasets.splits import ArraySplit, ImageSplit

_FOLDER, _NAMES = "stl10_binary", "class_names.txt"
_CHANNELS, _SIDE = 3, 96


def _files(root: Path, source: str) -> list[Path]:
    # unlabeled_X.bin, by far the largest file of the archive, is not needed.
    return [root / _FOLDER / name for name in (f"{source}_X.bin", f"{source}_y.bin", _NAMES)]


def _read(root: Path, source: str) -> ImageSplit:
    images, labels, names = _files(root, source)
    pixels = np.fromfile(images, dtype=np.uint8)
    labels_N = np.fromfile(labels, dtype=np.uint8).astype(np.int64) - 1  # counted from 1
    if pixels.size != len(labels_N) * _CHANNELS * _SIDE * _SIDE:
        raise RequestError(
            f"{images}: found {pixels.size:,} bytes, expected {_CHANNELS * _SIDE * _SIDE:,} for each of the "
            f"{len(labels_N):,} labels; unpack the archive again"
        )
    # Column-major planes: [N, channel, x, y] becomes [N, y, x, channel].
    pixels_NHWC = np.ascontiguousarray(pixels.reshape(-1, _CHANNELS, _SIDE, _SIDE).transpose(0, 3, 2, 1))
    return ArraySplit(f"{_FOLDER}/{source}", pixels_NHWC, labels_N, tuple(read_lines(names)))


STL10 = PublishedReader(marker=f"{_FOLDER}/train_X.bin", files=_files, read=_read)
