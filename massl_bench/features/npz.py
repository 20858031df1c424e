"""Bring your own features: a `.npz` file in place of model and dataset."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import parse_json, read_regular, sha256_file, sha256_of
from massl_bench.core.kinds import DatasetKind
from massl_bench.core.printable import printable
from massl_bench.core.values import CopyTruth, FeatureBank, LabelCoding, QueryTruth
from massl_bench.core.wording import asked
from massl_bench.features.archive import Archive
from massl_bench.features.coding import MEANING, AmbiguousCodingError, as_banks_hold_them, assumed, inferred_coding

_LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "classification": ("train_features", "train_labels", "test_features", "test_labels"),
    "retrieval": ("database", "queries"),
    "copy-detection": ("originals", "queries", "query_original"),
    "unlabelled": ("features",),
}
"""The arrays that each layout needs; the first of them tells which layout it is."""

_OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "classification": ("val_features", "val_labels", "label_coding"),
    "retrieval": (),
    "copy-detection": ("distractors", "whitening", "query_block"),
    "unlabelled": (),
}

_DRAW = re.compile(r"k(\d{1,9})_run(\d{1,9})")


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
    notes: tuple[str, ...] = ()
    """What was assumed, and which arrays were left aside."""


def read_features_file(path: Path, ground_truth: Path | None = None) -> HandedFeatures:
    """Reads one of these sets of arrays; the first array of a set tells which it is.

    * `train_features`, `train_labels`, `test_features`, `test_labels`, optionally `val_features` and `val_labels`, and
      `k{k}_run{r}`: rows of the training features for few-shot. Labels [N] may be any whole numbers: the sorted
      values of the training labels become the class indices. Labels [N, C] are multi-label: 1 present,
      0 difficult, −1 absent, or, where no split holds −1, 0 absent, 1 present. What leaves that open is refused, and
      `label_coding` ("-1/0/1" or "0/1") says it.
    * `database`, `queries`, with a ground truth: a JSON list of `{"easy": […], "hard": […], "junk": […]}`, rows.
    * `originals`, `queries`, `query_original` (rows of the originals), optionally `distractors`, `whitening` and
      `query_block` (strings; otherwise all queries are of the block `strong`).
    * `features`: unlabelled.

    Raises:
        RequestError: The file is no such archive, or damaged; an array is missing, of a wrong shape or type, or not
            finite; a test label does not occur in training; the meaning of the labels is left open; the ground truth is
            missing, malformed, or of other arrays.
    """
    archive = Archive(path)
    layout = next((kind for kind, wanted in _LAYOUTS.items() if wanted[0] in archive.arrays), "classification")
    missing = [name for name in _LAYOUTS[layout] if name not in archive.arrays]
    if missing:
        expected = "; or ".join(", ".join(names) for names in _LAYOUTS.values())
        found = ", ".join(map(printable, list(archive.arrays)[:12])) or "nothing"
        raise archive.problem(f"{', '.join(missing)} missing; found {found}; expected {expected}")
    if ground_truth is not None and layout != "retrieval":
        raise RequestError(
            f"belongs to database and queries; {printable(path)} holds {layout} features",
            field="ground_truth",
            found=printable(ground_truth),
        )
    sha256 = sha256_file(path)
    match layout:
        case "classification":
            handed = _classification(archive, sha256)
        case "retrieval":
            if ground_truth is None:
                needed = asked("ground_truth", "FILE.json")
                raise archive.problem(f"database and queries need {needed}: what each query should find")
            sha256 = sha256_of([sha256, sha256_file(ground_truth)]) if ground_truth.is_file() else sha256
            handed = _handed(archive, "retrieval", _LAYOUTS[layout], sha256)
            sizes = len(handed.banks["queries"]), len(handed.banks["database"])
            handed = replace(handed, ground_truth=_read_ground_truth(ground_truth, *sizes))
        case "copy-detection":
            handed = _copy_detection(archive, sha256)
        case _:
            handed = _handed(archive, "unlabelled", _LAYOUTS[layout], sha256)
            handed = replace(handed, banks={"all": handed.banks["features"]})
    dims = {role: bank.features.shape[1] for role, bank in handed.banks.items()}
    if len(set(dims.values())) > 1:
        listed = ", ".join(f"{role} {count}" for role, count in dims.items())
        raise archive.problem(f"expected features of one number of dimensions, found {listed}: features of two models?")
    aside = [name for name in archive.arrays if not _belongs(name, layout)]
    if aside:
        listed = ", ".join(f"{printable(name)} ({archive.arrays[name]})" for name in aside[:3])
        more = f", … ({len(aside)} in all)" if len(aside) > 3 else ""
        handed = replace(handed, notes=(*handed.notes, f"{printable(path)}: not read: {listed}{more}"))
    return handed


def _belongs(name: str, layout: str) -> bool:
    known = name in _LAYOUTS[layout] or name in _OPTIONAL[layout]
    return known or (layout == "classification" and _DRAW.fullmatch(name) is not None)


def _handed(archive: Archive, kind: DatasetKind, names: Sequence[str], sha256: str) -> HandedFeatures:
    banks = {name: _bank(archive, name) for name in names if name in archive.arrays}
    return HandedFeatures(name=printable(archive.path.stem), kind=kind, banks=banks, num_classes=None, sha256=sha256)


def _bank(archive: Archive, name: str) -> FeatureBank:
    """Returns a bank without labels of the array `name`."""
    features = archive.features(name)
    rows = (f"{printable(archive.path.name)}, row {row}".encode() for row in range(len(features)))
    return FeatureBank(features=features, labels=None, ids=np.array(list(rows), dtype=np.bytes_))


def _classification(archive: Archive, sha256: str) -> HandedFeatures:
    roles = [role for role in ("train", "val", "test") if f"{role}_features" in archive.arrays]
    absent = [f"{role}_labels" for role in roles if f"{role}_labels" not in archive.arrays]
    if absent:
        raise archive.problem(f"{absent[0]} missing")
    banks = {role: _bank(archive, f"{role}_features") for role in roles}
    labels = {role: archive.integers(f"{role}_labels", len(bank), (1, 2)) for role, bank in banks.items()}
    multi = labels["train"].ndim == 2
    if any(each.shape[1:] != labels["train"].shape[1:] for each in labels.values()):
        shapes = ", ".join(f"{role}_labels {list(each.shape)}" for role, each in labels.items())
        raise archive.problem(f"expected labels of one number of classes, found {shapes}")
    if multi:
        num_classes, names, (indices, notes) = labels["train"].shape[1], None, _multi_labels(archive, labels)
    else:
        classes, indices = _single_labels(archive, labels)
        num_classes, names, notes = len(classes), tuple(str(value) for value in classes), ()
    banks = {
        role: replace(bank, labels=indices[role], class_names=names, num_classes=num_classes)
        for role, bank in banks.items()
    }
    return HandedFeatures(
        name=printable(archive.path.stem),
        kind="multi-label" if multi else "single-label",
        banks=banks,
        num_classes=num_classes,
        sha256=sha256,
        draws=_draws(archive, len(banks["train"])),
        notes=notes,
    )


def _single_labels(
    archive: Archive, labels: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """Returns (class values, class indices int64 [N] by role)."""
    classes = np.unique(labels["train"])
    for role, values in labels.items():
        unknown = np.setdiff1d(values, classes)
        if len(unknown):
            raise archive.problem(f"{role}_labels: class {unknown[0]} does not occur in train_labels")
    return classes, {role: np.searchsorted(classes, values).astype(np.int64) for role, values in labels.items()}


def _multi_labels(
    archive: Archive, labels: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """Returns int8 [N, C] by role, with 1 present, 0 difficult, −1 absent, and what was assumed of them."""
    for role, values in labels.items():
        wrong = np.setdiff1d(values, (-1, 0, 1))
        if len(wrong):
            raise archive.problem(
                f"{role}_labels: expected 1 (present), 0 (difficult) and -1 (absent), or 0 and 1; found {wrong[0]}"
            )
    notes: tuple[str, ...] = ()
    if "label_coding" in archive.arrays:
        given = archive.strings("label_coding")
        coding = next((known for known in MEANING if given.tolist() in (known, [known])), None)
        if coding is None:
            raise archive.problem(f"label_coding: expected one of {', '.join(MEANING)}, found {given.tolist()!a:.60}")
        wrong_role = next((role for role, values in labels.items() if coding == "0/1" and (values == -1).any()), None)
        if wrong_role is not None:
            raise archive.problem(f"{wrong_role}_labels holds -1, and label_coding says 0/1: 0 absent, 1 present")
    else:
        coding = _inferred_coding(archive, labels)
        meaning = assumed(labels, coding)
        notes = (f"{printable(archive.path)}: {meaning}",) if meaning is not None else ()
    return as_banks_hold_them(labels, coding), notes


def _inferred_coding(archive: Archive, labels: Mapping[str, NDArray[Any]]) -> LabelCoding:
    try:
        return inferred_coding(labels)
    except AmbiguousCodingError as error:
        found = ", ".join(f"{count} in {each}_labels" for each, count in error.absent.items())
        alike, declared = "write all splits alike", "add label_coding=np.array('-1/0/1') to the file"
        raise archive.problem(
            f"{error.role}_labels holds 0 {error.zeros} times and -1 is there too ({found}): with -1 (absent) 0 means "
            f"difficult, without it absent; {declared if error.absent[error.role] else alike}, or write 0 and 1 only"
        ) from None


def _draws(archive: Archive, count: int) -> dict[tuple[int, int], NDArray[np.int64]]:
    """Returns the training rows of every `k{k}_run{r}`."""
    draws = {}
    for name in archive.arrays:
        found = _DRAW.fullmatch(name)
        if found is not None:
            rows = archive.integers(name, None).astype(np.int64)
            if len(rows) == 0 or rows.min() < 0 or rows.max() >= count:
                raise archive.problem(f"{name}: expected rows of train_features, from 0 to {count - 1}")
            draws[int(found[1]), int(found[2])] = rows
    return draws


def _copy_detection(archive: Archive, sha256: str) -> HandedFeatures:
    handed = _handed(archive, "copy-detection", ("originals", "distractors", "queries", "whitening"), sha256)
    count = len(handed.banks["queries"])
    original = archive.integers("query_original", None).astype(np.int64)
    block = archive.strings("query_block") if "query_block" in archive.arrays else np.full(count, "strong")
    if block.ndim != 1:
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
    where = asked("ground_truth", printable(path))
    try:
        content = parse_json(read_regular(path))
    except FileNotFoundError:
        raise RequestError(f"{where}: no such file") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{where}: not a JSON file: {one_line(error)}") from None
    names = ("easy", "hard", "junk")
    if not isinstance(content, list) or len(content) != num_queries:
        found = f"{len(content)} entries" if isinstance(content, list) else type(content).__name__
        raise RequestError(f"{where}: expected a list with an entry for each of {num_queries} queries, found {found}")
    truth = []
    for index, entry in enumerate(content):
        if not isinstance(entry, dict) or set(entry) != set(names):
            raise RequestError(f"{where}: query {index}: expected the keys easy, hard and junk")
        rows = {}
        for name in names:
            values = entry[name]
            if not isinstance(values, list) or any(type(value) is not int for value in values):
                raise RequestError(f"{where}: query {index}: {name}: expected a list of whole numbers")
            wrong = [value for value in values if not 0 <= value < num_rows]
            if wrong:
                raise RequestError(
                    f"{where}: query {index}: {name} names image {wrong[0]}, which is not there; "
                    f"allowed: 0 to {num_rows - 1}"
                )
            rows[name] = np.array(values, dtype=np.int64)
        try:
            truth.append(QueryTruth(**rows))
        except ValueError as error:
            raise RequestError(f"{where}: query {index}: {error}") from None
    return truth
