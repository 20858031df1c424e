"""Bring your own features: a `.npz` file in place of model and dataset."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.errors import RequestError, one_line
from massl_bench.storage import sha256_file
from massl_bench.types import DatasetKind, FeatureBank


@dataclass(frozen=True, kw_only=True)
class HandedFeatures:
    """Features that something else extracted."""

    name: str
    """The file's stem; it stands for the dataset's name."""
    kind: DatasetKind
    banks: Mapping[str, FeatureBank]
    num_classes: int
    sha256: str
    """Of the file."""


def read_features_file(path: Path) -> HandedFeatures:
    """Reads `train_features`, `train_labels`, `test_features` and `test_labels`.

    Labels may be any whole numbers: the sorted values of the training labels become the class indices.

    Raises:
        RequestError: The file is no such archive; an array is missing, of a wrong shape or type, or not finite; a test
            label does not occur in training.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise RequestError(f"--features {path}: no such file") from None
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise RequestError(f"--features {path}: not an .npz file of plain arrays: {one_line(error)}") from None
    wanted = ["train_features", "train_labels", "test_features", "test_labels"]
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise RequestError(
            f"--features {path}: {', '.join(missing)} missing; found {', '.join(arrays) or 'nothing'}; expected "
            f"{', '.join(wanted)}"
        )
    classes = np.unique(_labels(path, "train_labels", arrays))
    if arrays["train_features"].ndim == 2 and arrays["test_features"].ndim == 2:
        dims = arrays["train_features"].shape[1], arrays["test_features"].shape[1]
        if dims[0] != dims[1]:
            raise RequestError(f"--features {path}: train_features have {dims[0]} dimensions, test_features {dims[1]}")
    banks = {}
    for role in ("train", "test"):
        features = _features(path, f"{role}_features", arrays)
        values = _labels(path, f"{role}_labels", arrays)
        if len(values) != len(features):
            raise RequestError(f"--features {path}: {len(features)} {role}_features, but {len(values)} {role}_labels")
        unknown = np.setdiff1d(values, classes)
        if len(unknown):
            raise RequestError(f"--features {path}: {role}_labels: class {unknown[0]} does not occur in train_labels")
        banks[role] = FeatureBank(
            features=features,
            labels=np.searchsorted(classes, values).astype(np.int64),
            ids=np.array([f"{path.name}, row {row}".encode() for row in range(len(features))], dtype=np.bytes_),
            class_names=tuple(str(value) for value in classes),
            num_classes=len(classes),
        )
    return HandedFeatures(
        name=path.stem, kind="single-label", banks=banks, num_classes=len(classes), sha256=sha256_file(path)
    )


def _features(path: Path, name: str, arrays: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    found = arrays[name]
    if found.ndim != 2 or not np.issubdtype(found.dtype, np.floating) or 0 in found.shape:
        raise RequestError(
            f"--features {path}: {name}: expected numbers [N, D] of a floating type, found {found.dtype} "
            f"{list(found.shape)}"
        )
    features = found.astype(np.float32)
    broken_N = ~np.isfinite(features).all(axis=1)
    if broken_N.any():
        raise RequestError(
            f"--features {path}: {name}: {broken_N.sum()} rows are not finite, the first is row {broken_N.argmax()}"
        )
    return features


def _labels(path: Path, name: str, arrays: dict[str, NDArray[Any]]) -> NDArray[Any]:
    found = arrays[name]
    if found.ndim == 2:
        raise RequestError(
            f"--features {path}: {name}: multi-label ([N, C]) features have no protocol yet; expected [N]"
        )
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise RequestError(
            f"--features {path}: {name}: expected whole numbers [N], found {found.dtype} {list(found.shape)}"
        )
    return found
