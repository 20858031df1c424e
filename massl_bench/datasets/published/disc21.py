"""DISC21, the descriptor track of the Image Similarity Challenge (Douze et al., 2021, arXiv 2106.09672).

A million references, development queries of which half have a public ground truth, and a million training images, which
serve for a whitening where they are there. A query without a reference is a copy of none: it counts only by the wrong
pairs that it makes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from massl_bench.core.errors import RequestError
from massl_bench.core.files import open_regular
from massl_bench.core.values import CopyTruth
from massl_bench.datasets.folders import image_files
from massl_bench.datasets.published.reader import PublishedReader
from massl_bench.datasets.splits import FileSplit, ImageSplit

_TRUTH = "public_ground_truth.csv"
_BLOCK = "disc21"


def _images(root: Path, folder: str) -> list[Path]:
    """Returns the images of a folder, which lies in `images/` or beside the table."""
    return image_files(root / "images" / folder) or image_files(root / folder)


def _pairs(root: Path) -> dict[str, str]:
    """Returns the reference of each query of the table, by their names; nothing for a copy of none."""
    pairs: dict[str, str] = {}
    with io.TextIOWrapper(open_regular(root / _TRUTH), encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file)):
            if len(row) != 2 or (number == 0 and row != ["query_id", "reference_id"]):
                raise RequestError(f"{root / _TRUTH}: line {number + 1}: expected query_id,reference_id, got {row}")
            if number == 0:
                continue
            if row[0] in pairs:
                raise RequestError(f"{root / _TRUTH}: line {number + 1}: the query {row[0]} is there twice")
            pairs[row[0]] = row[1]
    return pairs


def _queries(root: Path) -> list[Path]:
    there = {path.stem: path for path in _images(root, "queries")}
    pairs = _pairs(root)
    missing = [name for name in pairs if name not in there]
    if missing:
        raise RequestError(
            f"{root}: no image of the query {missing[0]} ({len(missing):,} of {len(pairs):,} are missing) in queries/; "
            "unpack the archives there"
        )
    return [there[name] for name in pairs]


def _references(root: Path) -> list[Path]:
    found = _images(root, "references")
    if not found:
        raise RequestError(f"{root}: no image in references/; unpack the archives there")
    return found


_SOURCES: Mapping[str, Callable[[Path], list[Path]]] = {
    "references": _references,
    "queries": _queries,
    "train": lambda root: _images(root, "train"),
}


def _files(root: Path, source: str) -> list[Path]:
    return [*_SOURCES[source](root), root / _TRUTH] if source == "queries" else _SOURCES[source](root)


def _read(root: Path, source: str) -> ImageSplit:
    return FileSplit(root, [path.relative_to(root).as_posix() for path in _SOURCES[source](root)], None, None)


def _truth(root: Path) -> CopyTruth:
    row_of = {path.stem: row for row, path in enumerate(_references(root))}
    pairs = _pairs(root)
    unknown = [name for name in pairs.values() if name and name not in row_of]
    if unknown:
        raise RequestError(
            f"{root}: no image of the reference {unknown[0]} ({len(unknown):,} that queries are copies of are missing) "
            "in references/; unpack the archives there"
        )
    return CopyTruth(
        original=np.array([row_of[name] if name else -1 for name in pairs.values()], dtype=np.int64),
        block=np.full(len(pairs), _BLOCK),
    )


def _without_truth(root: Path) -> list[str]:
    pairs = _pairs(root)
    return [path.relative_to(root).as_posix() for path in _images(root, "queries") if path.stem not in pairs]


DISC21 = PublishedReader(marker=_TRUTH, files=_files, read=_read, truth=_truth, sole=True, left_out=_without_truth)
