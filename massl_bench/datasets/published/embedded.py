"""Data that libraries embed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from massl_bench.datasets.published.reader import PublishedReader
from massl_bench.datasets.splits import ArraySplit, ImageSplit


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


DIGITS = PublishedReader(marker=None, files=lambda _root, _source: [], read=_read_digits)
