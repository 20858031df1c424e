"""GTSRB: one table a class for training, one for the test images (Stallkamp et al., 2012)."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from massl_bench.core.files import open_regular
from massl_bench.datasets.folders import subfolders
from massl_bench.datasets.published.reader import Listing, listed

_TRAIN, _TEST = "GTSRB/Training", "GTSRB/Final_Test/Images"
# The archive of the test images has a GT-final_test.test.csv too, without the labels: it must not be taken for this.
_TEST_LABELS = "GT-final_test.csv"


def _rows(path: Path, folder: str) -> list[tuple[str, int]]:
    """Returns (file, class) of every row of one of the tables, which are separated by semicolons."""
    with io.TextIOWrapper(open_regular(path), encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter=";", skipinitialspace=True)
        return [(f"{folder}/{row['Filename']}", int(row["ClassId"])) for row in reader]


def _gtsrb(root: Path, source: str) -> Listing:
    if source == "train":
        classes = [name for name in subfolders(root / _TRAIN) if name.isdigit()]
        tables = tuple(f"{_TRAIN}/{name}/GT-{name}.csv" for name in classes)
        rows = [
            row for name, table in zip(classes, tables, strict=True) for row in _rows(root / table, f"{_TRAIN}/{name}")
        ]
    else:
        tables, rows = (), _rows(root / _TEST_LABELS, _TEST)
    labels = np.array([label for _, label in rows], dtype=np.int64)
    return Listing(files=[file for file, _ in rows], labels=labels, tables=tables)


GTSRB = listed(marker=_TRAIN, tables={"train": (), "test": (_TEST_LABELS,)}, parse=_gtsrb, folders=("", "gtsrb"))
