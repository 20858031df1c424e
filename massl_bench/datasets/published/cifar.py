"""CIFAR's "python version": pickled batches of planes [N, 3 * 32 * 32] (Krizhevsky, 2009)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from massl_bench.core.errors import RequestError, one_line
from massl_bench.datasets.published.pickles import read_plain_pickle
from massl_bench.datasets.published.reader import PublishedReader
from massl_bench.datasets.splits import ArraySplit, ImageSplit


def _cifar(folder: str, batches: dict[str, list[str]], label_key: str, meta: tuple[str, str]) -> PublishedReader:
    meta_file, names_key = meta

    def files(root: Path, source: str) -> list[Path]:
        return [root / folder / name for name in [*batches[source], meta_file]]

    def read(root: Path, source: str) -> ImageSplit:
        parts = [read_plain_pickle(root / folder / name) for name in batches[source]]
        try:
            planes = np.concatenate([np.asarray(part["data"], dtype=np.uint8) for part in parts])
            labels = np.concatenate([np.asarray(part[label_key], dtype=np.int64) for part in parts])
            names = tuple(str(name) for name in read_plain_pickle(root / folder / meta_file)[names_key])
            pixels = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise RequestError(
                f"{root / folder}: not CIFAR's python version: {type(error).__name__}: {one_line(error)}"
            ) from None
        return ArraySplit(f"{folder}/{source}", np.ascontiguousarray(pixels), labels, names)

    return PublishedReader(marker=folder, files=files, read=read)


CIFAR10 = _cifar(
    "cifar-10-batches-py",
    {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]},
    "labels",
    ("batches.meta", "label_names"),
)
CIFAR100 = _cifar(
    "cifar-100-python", {"train": ["train"], "test": ["test"]}, "fine_labels", ("meta", "fine_label_names")
)
