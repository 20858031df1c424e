"""Datasets whose labels are MATLAB files: Flowers-102 (Nilsback & Zisserman, 2008) and Stanford Cars (Krause, 2013).

Both count classes, and Flowers-102 its images too, from 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from massl_bench.core.errors import RequestError
from massl_bench.datasets.published.matlab_files import read_mat
from massl_bench.datasets.published.reader import Listing, listed

# The large split is the test split: `trnid` and `tstid` are easily swapped.
_FLOWER_SETS = {"train": "trnid", "validation": "valid", "test": "tstid"}
_FLOWER_TABLES = ("setid.mat", "imagelabels.mat")


def _flowers102(root: Path, source: str) -> Listing:
    sets, labels = (read_mat(root / name) for name in _FLOWER_TABLES)
    numbers = np.atleast_1d(sets[_FLOWER_SETS[source]]).astype(np.int64)
    classes = np.atleast_1d(labels["labels"]).astype(np.int64)
    if numbers.min() < 1:
        raise ValueError("images are counted from 1")
    return Listing(files=[f"jpg/image_{number:05}.jpg" for number in numbers], labels=classes[numbers - 1] - 1)


FLOWERS102 = listed(
    marker="setid.mat",
    tables=dict.fromkeys(_FLOWER_SETS, _FLOWER_TABLES),
    parse=_flowers102,
    folders=("", "flowers-102"),
)

_CAR_NAMES = "devkit/cars_meta.mat"
_CAR_TRAIN = "devkit/cars_train_annos.mat"
# The devkit's own cars_test_annos.mat has no labels; the file that has them came later, and lies in either place.
_CAR_TEST = ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat")


def _stanford_cars(root: Path, source: str) -> Listing:
    if source == "train":
        folder, table = "cars_train", _CAR_TRAIN
    else:
        folder = "cars_test"
        table = next((name for name in _CAR_TEST if (root / name).is_file()), "")
        if not table:
            raise RequestError(f"{root}: {_CAR_TEST[0]} not found: cars_test_annos.mat of the devkit has no labels")
    rows = np.atleast_1d(read_mat(root / table)["annotations"])
    return Listing(
        files=[f"{folder}/{row['fname']}" for row in rows],
        labels=np.array([int(row["class"]) - 1 for row in rows], dtype=np.int64),
        class_names=tuple(str(name) for name in np.atleast_1d(read_mat(root / _CAR_NAMES)["class_names"])),
        tables=(table,),
    )


STANFORD_CARS = listed(
    marker=_CAR_TRAIN,
    tables={"train": (_CAR_TRAIN, _CAR_NAMES), "test": (_CAR_NAMES,)},
    parse=_stanford_cars,
    folders=("", "stanford_cars"),
)
