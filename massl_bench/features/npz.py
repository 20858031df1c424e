"""Bring your own features: a `.npz` file in place of model and dataset."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import sha256_file, sha256_of, what_it_is
from massl_bench.core.values import CopyTruth, DatasetKind, FeatureBank, QueryTruth

_LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "classification": ("train_features", "train_labels", "test_features", "test_labels"),
    "retrieval": ("database", "queries"),
    "copy-detection": ("originals", "queries", "query_original"),
    "unlabelled": ("features",),
}
"""The arrays that each layout needs; the first of them tells which layout it is."""


@dataclass(frozen=True, kw_only=True)
class HandedFeatures:
    """Features that something else extracted."""

    name: str
    """The file's stem; it stands for the dataset's name."""
    kind: DatasetKind
    banks: Mapping[str, FeatureBank]
    num_classes: int | None
    sha256: str
    """Of the file, and of the ground truth where there is one."""
    ground_truth: Sequence[QueryTruth] | CopyTruth | None = None
    draws: Mapping[tuple[int, int], NDArray[np.int64]] = field(default_factory=dict)
    """Training rows by (k, run), where the file holds arrays `k{k}_run{r}`."""


@dataclass(frozen=True)
class _Archive:
    """The arrays of a file; every problem names the file and the array."""

    path: Path
    arrays: Mapping[str, NDArray[Any]]

    def problem(self, text: str) -> RequestError:
        return RequestError(f"--features {self.path}: {text}")

    def features(self, name: str) -> FeatureBank:
        """Returns a bank without labels of the array `name`, [N, D]."""
        found = self.arrays[name]
        if 0 in found.shape:
            raise self.problem(f"{name}: is empty: {found.dtype} {list(found.shape)}")
        if found.ndim != 2 or not np.issubdtype(found.dtype, np.floating):
            raise self.problem(
                f"{name}: expected numbers [N, D] of a floating type, found {found.dtype} {list(found.shape)}"
            )
        features = found.astype(np.float32)
        broken_N = ~np.isfinite(features).all(axis=1)
        if broken_N.any():
            raise self.problem(f"{name}: {broken_N.sum()} rows are not finite, the first is row {broken_N.argmax()}")
        ids = np.array([f"{self.path.name}, row {row}".encode() for row in range(len(features))], dtype=np.bytes_)
        return FeatureBank(features=features, labels=None, ids=ids)

    def integers(self, name: str, count: int | None, dims: tuple[int, ...] = (1,)) -> NDArray[Any]:
        """Returns an array of whole numbers with `count` rows."""
        found = self.arrays[name]
        if found.ndim not in dims or not np.issubdtype(found.dtype, np.integer):
            shapes = " or ".join("[N]" if dim == 1 else "[N, C]" for dim in dims)
            raise self.problem(f"{name}: expected whole numbers {shapes}, found {found.dtype} {list(found.shape)}")
        if count is not None and len(found) != count:
            raise self.problem(f"{count} {name.replace('labels', 'features')}, but {len(found)} {name}")
        return found


def read_features_file(path: Path, ground_truth: Path | None = None) -> HandedFeatures:
    """Reads one of these sets of arrays; the first array of a set tells which it is.

    * `train_features`, `train_labels`, `test_features`, `test_labels`, optionally `val_features` and `val_labels`, and
      `k{k}_run{r}`: rows of the training features for few-shot. Labels [N] may be any whole numbers: the sorted
      values of the training labels become the class indices. Labels [N, C] are multi-label: 1 present,
      0 difficult, −1 absent; a file without −1 is read as 0 absent, 1 present.
    * `database`, `queries`, with a ground truth: a JSON list of `{"easy": […], "hard": […], "junk": […]}`, rows.
    * `originals`, `queries`, `query_original` (rows of the originals), optionally `distractors`, `whitening` and
      `query_block` (strings; otherwise all queries are of the block `strong`).
    * `features`: unlabelled.

    Raises:
        RequestError: The file is no such archive; an array is missing, of a wrong shape or type, or not finite; a test
            label does not occur in training; the ground truth is missing, malformed, or of other arrays.
    """
    archive = _open(path)
    layout = next((kind for kind, wanted in _LAYOUTS.items() if wanted[0] in archive.arrays), "classification")
    missing = [name for name in _LAYOUTS[layout] if name not in archive.arrays]
    if missing:
        expected = "; or ".join(", ".join(names) for names in _LAYOUTS.values())
        found = ", ".join(list(archive.arrays)[:12]) or "nothing"
        raise archive.problem(f"{', '.join(missing)} missing; found {found}; expected {expected}")
    if ground_truth is not None and layout != "retrieval":
        raise RequestError(
            f"--ground-truth {ground_truth}: belongs to database and queries; {path} holds {layout} features"
        )
    sha256 = sha256_file(path)
    match layout:
        case "classification":
            handed = _classification(archive, sha256)
        case "retrieval":
            if ground_truth is None:
                raise archive.problem("database and queries need --ground-truth FILE.json: what each query should find")
            sha256 = sha256_of([sha256, sha256_file(ground_truth)]) if ground_truth.is_file() else sha256
            handed = _handed(archive, "retrieval", ("database", "queries"), sha256)
            sizes = len(handed.banks["queries"]), len(handed.banks["database"])
            handed = replace(handed, ground_truth=_read_ground_truth(ground_truth, *sizes))
        case "copy-detection":
            handed = _copy_detection(archive, sha256)
        case _:
            handed = _handed(archive, "unlabelled", ("features",), sha256)
            handed = replace(handed, banks={"all": handed.banks["features"]})
    dims = {role: bank.features.shape[1] for role, bank in handed.banks.items()}
    if len(set(dims.values())) > 1:
        listed = ", ".join(f"{role} {count}" for role, count in dims.items())
        raise archive.problem(f"expected features of one number of dimensions, found {listed}: features of two models?")
    return handed


def _open(path: Path) -> _Archive:
    if not path.is_file():
        raise RequestError(f"--features {path}: no such file")
    if not zipfile.is_zipfile(path):
        raise RequestError(f"--features {path}: not an .npz file, or a damaged one: it is {what_it_is(path)}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return _Archive(path, {name: np.asarray(archive[name]) for name in archive.files})
    except Exception as error:  # damaged bytes raise nearly anything
        raise RequestError(f"--features {path}: not an .npz file of plain arrays: {one_line(error)}") from None


def _handed(archive: _Archive, kind: DatasetKind, names: Sequence[str], sha256: str) -> HandedFeatures:
    banks = {name: archive.features(name) for name in names if name in archive.arrays}
    return HandedFeatures(name=archive.path.stem, kind=kind, banks=banks, num_classes=None, sha256=sha256)


def _classification(archive: _Archive, sha256: str) -> HandedFeatures:
    roles = [role for role in ("train", "val", "test") if f"{role}_features" in archive.arrays]
    absent = [f"{role}_labels" for role in roles if f"{role}_labels" not in archive.arrays]
    if absent:
        raise archive.problem(f"{absent[0]} missing")
    banks = {role: archive.features(f"{role}_features") for role in roles}
    labels = {role: archive.integers(f"{role}_labels", len(bank), (1, 2)) for role, bank in banks.items()}
    multi = labels["train"].ndim == 2
    if any(each.shape[1:] != labels["train"].shape[1:] for each in labels.values()):
        shapes = ", ".join(f"{role}_labels {list(each.shape)}" for role, each in labels.items())
        raise archive.problem(f"expected labels of one number of classes, found {shapes}")
    if multi:
        num_classes, names, indices = labels["train"].shape[1], None, _multi_labels(archive, labels)
    else:
        classes, indices = _single_labels(archive, labels)
        num_classes, names = len(classes), tuple(str(value) for value in classes)
    banks = {
        role: replace(bank, labels=indices[role], class_names=names, num_classes=num_classes)
        for role, bank in banks.items()
    }
    return HandedFeatures(
        name=archive.path.stem,
        kind="multi-label" if multi else "single-label",
        banks=banks,
        num_classes=num_classes,
        sha256=sha256,
        draws=_draws(archive, len(banks["train"])),
    )


def _single_labels(
    archive: _Archive, labels: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """Returns (class values, class indices int64 [N] by role)."""
    classes = np.unique(labels["train"])
    for role, values in labels.items():
        unknown = np.setdiff1d(values, classes)
        if len(unknown):
            raise archive.problem(f"{role}_labels: class {unknown[0]} does not occur in train_labels")
    return classes, {role: np.searchsorted(classes, values).astype(np.int64) for role, values in labels.items()}


def _multi_labels(archive: _Archive, labels: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Returns int8 [N, C] by role, with 1 present, 0 difficult, −1 absent."""
    for role, values in labels.items():
        wrong = np.setdiff1d(values, (-1, 0, 1))
        if len(wrong):
            raise archive.problem(
                f"{role}_labels: expected 1 (present), 0 (difficult) and -1 (absent), or 0 and 1; found {wrong[0]}"
            )
    if not any((values == -1).any() for values in labels.values()):
        labels = {role: 2 * values.astype(np.int8) - 1 for role, values in labels.items()}
    return {role: values.astype(np.int8) for role, values in labels.items()}


def _draws(archive: _Archive, count: int) -> dict[tuple[int, int], NDArray[np.int64]]:
    """Returns the training rows of every `k{k}_run{r}`."""
    draws = {}
    for name in archive.arrays:
        found = re.fullmatch(r"k(\d+)_run(\d+)", name)
        if found is not None:
            rows = archive.integers(name, None).astype(np.int64)
            if len(rows) == 0 or rows.min() < 0 or rows.max() >= count:
                raise archive.problem(f"{name}: expected rows of train_features, from 0 to {count - 1}")
            draws[int(found[1]), int(found[2])] = rows
    return draws


def _copy_detection(archive: _Archive, sha256: str) -> HandedFeatures:
    handed = _handed(archive, "copy-detection", ("originals", "distractors", "queries", "whitening"), sha256)
    count = len(handed.banks["queries"])
    original = archive.integers("query_original", None).astype(np.int64)
    block = archive.arrays.get("query_block", np.full(count, "strong"))
    if block.ndim != 1 or block.dtype.kind != "U":
        raise archive.problem(f"query_block: expected strings [Q], found {block.dtype} {list(block.shape)}")
    for name, found in (("query_original", original), ("query_block", block)):
        if len(found) != count:
            raise archive.problem(f"{count} queries, but {len(found)} {name}")
    rows = len(handed.banks["originals"])
    if original.min() < -1 or original.max() >= rows:
        raise archive.problem(
            f"query_original: expected rows of originals, from 0 to {rows - 1} (-1: a copy of none of them); found "
            f"{original.min()} to {original.max()}"
        )
    return replace(handed, ground_truth=CopyTruth(original=original, block=block))


def _read_ground_truth(path: Path, num_queries: int, num_rows: int) -> list[QueryTruth]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"--ground-truth {path}: no such file") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"--ground-truth {path}: not a JSON file: {one_line(error)}") from None
    names = ("easy", "hard", "junk")
    if not isinstance(content, list) or len(content) != num_queries:
        found = f"{len(content)} entries" if isinstance(content, list) else type(content).__name__
        raise RequestError(
            f"--ground-truth {path}: expected a list with an entry for each of {num_queries} queries, found {found}"
        )
    truth = []
    for index, entry in enumerate(content):
        if not isinstance(entry, dict) or set(entry) != set(names):
            raise RequestError(f"--ground-truth {path}: query {index}: expected the keys easy, hard and junk")
        rows = {}
        for name in names:
            values = entry[name]
            if not isinstance(values, list) or any(type(value) is not int for value in values):
                raise RequestError(f"--ground-truth {path}: query {index}: {name}: expected a list of whole numbers")
            wrong = [value for value in values if not 0 <= value < num_rows]
            if wrong:
                raise RequestError(
                    f"--ground-truth {path}: query {index}: {name} names image {wrong[0]}, which is not there; "
                    f"allowed: 0 to {num_rows - 1}"
                )
            rows[name] = np.array(values, dtype=np.int64)
        try:
            truth.append(QueryTruth(**rows))
        except ValueError as error:
            raise RequestError(f"--ground-truth {path}: query {index}: {error}") from None
    return truth
