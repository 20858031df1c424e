"""Readers of datasets' own published layouts, and of the data that libraries embed; found by a spec's `reader`."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from massl_bench.datasets.splits import ArraySplit, ImageSplit
from massl_bench.errors import RequestError


@dataclass(frozen=True)
class PublishedReader:
    """How one published layout is recognised and read."""

    marker: str | None
    """The file or directory whose presence shows the layout; None for embedded data."""
    files: Callable[[Path], list[Path]]
    """All files that the splits are read from."""
    read: Callable[[Path, str], ImageSplit]
    """(root, source split) to the split."""


class _ArrayUnpickler(pickle.Unpickler):
    """Admits numpy arrays and plain containers, and refuses everything else: a pickle can hold code."""

    _ADMITTED = frozenset(
        (module, name)
        for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("ndarray", "dtype", "_reconstruct", "scalar")
    ) | {("_codecs", "encode")}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ADMITTED:
            raise pickle.UnpicklingError(f"it contains {module}.{name}, and only arrays and plain containers are read")
        return super().find_class(module, name)


def read_plain_pickle(path: Path) -> Any:
    """Returns the content of a pickle of plain containers, numbers, strings and arrays.

    Raises:
        RequestError: The file is not such a pickle; nothing of it was executed.
    """
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise RequestError(f"{path}: not read: {error}") from None


def _cifar(folder: str, batches: dict[str, list[str]], label_key: str, meta: tuple[str, str]) -> PublishedReader:
    """Returns the reader of CIFAR's "python version": pickled batches of planes [N, 3 * 32 * 32]."""
    meta_file, names_key = meta

    def files(root: Path) -> list[Path]:
        return [root / folder / name for names in batches.values() for name in names] + [root / folder / meta_file]

    def read(root: Path, split: str) -> ImageSplit:
        parts = [read_plain_pickle(root / folder / name) for name in batches[split]]
        try:
            planes = np.concatenate([np.asarray(part["data"], dtype=np.uint8) for part in parts])
            labels = np.concatenate([np.asarray(part[label_key], dtype=np.int64) for part in parts])
            names = tuple(str(name) for name in read_plain_pickle(root / folder / meta_file)[names_key])
            pixels = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        except (KeyError, TypeError, ValueError) as error:
            raise RequestError(f"{root / folder}: not CIFAR's python version: {error!r}") from None
        return ArraySplit(f"{folder}/{split}", np.ascontiguousarray(pixels), labels, names)

    return PublishedReader(folder, files, read)


def _read_digits(_: Path, split: str) -> ImageSplit:
    """Returns scikit-learn's digits: grey values 0-16 spread over 0-255; the first 1,347 train, the last 450 test."""
    from sklearn.datasets import load_digits

    content = load_digits()
    rows = slice(0, 1347) if split == "train" else slice(1347, None)
    grey = np.rint(content.images[rows] * (255 / 16)).astype(np.uint8)
    return ArraySplit(
        f"digits/{split}",
        np.repeat(grey[..., None], 3, axis=-1),
        content.target[rows].astype(np.int64),
        tuple(str(name) for name in content.target_names),
    )


READERS: dict[str, PublishedReader] = {
    "cifar10": _cifar(
        "cifar-10-batches-py",
        {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]},
        "labels",
        ("batches.meta", "label_names"),
    ),
    "cifar100": _cifar(
        "cifar-100-python", {"train": ["train"], "test": ["test"]}, "fine_labels", ("meta", "fine_label_names")
    ),
    "digits": PublishedReader(None, lambda _: [], _read_digits),
}
