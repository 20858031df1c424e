"""Datasets whose splits are text or JSON lists of image names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.files import parse_json, read_regular
from massl_bench.datasets.published.reader import Listing, listed, read_lines


def _indices(names: Sequence[str], class_names: Sequence[str]) -> NDArray[np.int64]:
    """Returns the class of each name, int64 [N]; raises `KeyError` for an unknown one."""
    index = {name: number for number, name in enumerate(class_names)}
    return np.array([index[name] for name in names], dtype=np.int64)


# DTD (Cimpoi et al., 2014), the first of its ten partitions. The classes come from all three lists: a class that one
# list lacks must not shift the others.
_DTD_LISTS = {source: f"labels/{source}1.txt" for source in ("train", "val", "test")}


def _dtd(root: Path, source: str) -> Listing:
    lists = {name: read_lines(root / path) for name, path in _DTD_LISTS.items()}
    class_names = tuple(sorted({line.partition("/")[0] for lines in lists.values() for line in lines}))
    lines = lists[source]
    return Listing(
        files=[f"images/{line}" for line in lines],
        labels=_indices([line.partition("/")[0] for line in lines], class_names),
        class_names=class_names,
    )


DTD = listed(
    marker="labels/train1.txt",
    tables=dict.fromkeys(_DTD_LISTS, tuple(_DTD_LISTS.values())),
    parse=_dtd,
    folders=("", "dtd", "dtd/dtd"),
)


# Oxford-IIIT Pets (Parkhi et al., 2012): lines `Abyssinian_100 1 1 1`, where the first number is the class from 1. The
# folder of the images holds other files too: only the lists count.
_PET_LISTS = {"train": "annotations/trainval.txt", "test": "annotations/test.txt"}


def _oxford_pets(root: Path, source: str) -> Listing:
    lists = {
        name: [line.split() for line in read_lines(root / path) if not line.startswith("#")]
        for name, path in _PET_LISTS.items()
    }
    breeds = {int(row[1]): row[0].rpartition("_")[0] for rows in lists.values() for row in rows}
    rows = lists[source]
    return Listing(
        files=[f"images/{row[0]}.jpg" for row in rows],
        labels=np.array([int(row[1]) - 1 for row in rows], dtype=np.int64),
        class_names=tuple(breeds[number] for number in range(1, len(breeds) + 1)),
    )


OXFORD_PETS = listed(
    marker=_PET_LISTS["train"],
    tables=dict.fromkeys(_PET_LISTS, tuple(_PET_LISTS.values())),
    parse=_oxford_pets,
    folders=("", "oxford-iiit-pet"),
)


# FGVC-Aircraft (Maji et al., 2013): lines `1025794 707-320`; the names of variants contain spaces and slashes, and
# their order is that of variants.txt.
_VARIANTS = "data/variants.txt"


def _aircraft_list(source: str) -> str:
    return f"data/images_variant_{source}.txt"


def _fgvc_aircraft(root: Path, source: str) -> Listing:
    class_names = tuple(read_lines(root / _VARIANTS))
    rows = [line.partition(" ") for line in read_lines(root / _aircraft_list(source))]
    return Listing(
        files=[f"data/images/{number}.jpg" for number, _, _ in rows],
        labels=_indices([name.strip() for _, _, name in rows], class_names),
        class_names=class_names,
    )


FGVC_AIRCRAFT = listed(
    marker=_VARIANTS,
    tables={source: (_VARIANTS, _aircraft_list(source)) for source in ("train", "val", "test")},
    parse=_fgvc_aircraft,
    folders=("", "fgvc-aircraft-2013b"),
)


# Food-101 (Bossard et al., 2014): both splits lie in one folder. The copies on the hub call the test images
# `validation`, and so do the specs.
_FOOD_LISTS = {"train": "meta/train.json", "validation": "meta/test.json"}


def _food101(root: Path, source: str) -> Listing:
    lists = {name: parse_json(read_regular(root / path)) for name, path in _FOOD_LISTS.items()}
    class_names = tuple(sorted({name for content in lists.values() for name in content}))
    rows = [(name, image) for name in class_names for image in lists[source].get(name, ())]
    return Listing(
        files=[f"images/{image}.jpg" for _, image in rows],
        labels=_indices([name for name, _ in rows], class_names),
        class_names=class_names,
    )


FOOD101 = listed(
    marker=_FOOD_LISTS["train"],
    tables=dict.fromkeys(_FOOD_LISTS, tuple(_FOOD_LISTS.values())),
    parse=_food101,
    folders=("", "food-101"),
)


# EuroSAT (Helber et al., 2019) has no split of its own; these are the lists of Neumann et al. (2019, arXiv 1911.06721),
# with one file name a line. The class is the folder, and the beginning of the file's name.
_EUROSAT_LISTS = {source: f"eurosat-{source}.txt" for source in ("train", "val", "test")}
_EUROSAT_CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)


def _eurosat(root: Path, source: str) -> Listing:
    names = [PurePosixPath(line).name for line in read_lines(root / _EUROSAT_LISTS[source])]
    classes = [name.rpartition("_")[0] for name in names]
    return Listing(
        files=[f"2750/{folder}/{name}" for folder, name in zip(classes, names, strict=True)],
        labels=_indices(classes, _EUROSAT_CLASSES),
        class_names=_EUROSAT_CLASSES,
    )


EUROSAT = listed(
    marker="2750",
    tables={source: (path,) for source, path in _EUROSAT_LISTS.items()},
    parse=_eurosat,
    folders=("", "eurosat"),
)
