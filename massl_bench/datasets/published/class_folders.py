"""Datasets that are published as class folders, and lists of their files: ImageNet and Country211.

ImageNet (Russakovsky et al., 2015) is unpacked to `train/<wnid>/`; its validation images come as one flat folder, with
labels in the development kit, and most copies have sorted them into `val/<wnid>/`. Classes are numbered in the sorted
order of their wnids. The lists of 1 % and 10 % are those of SimCLR (Chen et al., 2020).
"""

from __future__ import annotations

import lzma
import re
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import RequestError
from massl_bench.datasets.folders import image_files, labelled_files, subfolders
from massl_bench.datasets.published.matlab_files import read_mat
from massl_bench.datasets.published.reader import Listing, PublishedReader, listed, read_lines

_WNID = re.compile(r"n\d{8}")
_DEVKIT = "ILSVRC2012_devkit_t12/data"
_META, _GROUND_TRUTH = f"{_DEVKIT}/meta.mat", f"{_DEVKIT}/ILSVRC2012_validation_ground_truth.txt"


def _wnids(root: Path) -> tuple[str, ...]:
    return tuple(name for name in subfolders(root / "train") if _WNID.fullmatch(name))


def _flat_validation(root: Path, wnids: tuple[str, ...]) -> tuple[list[str], NDArray[np.int64]]:
    """Returns the files of the flat folder and their classes.

    The development kit's numbers 1 to 1000 are its own and neither the sorted order of the wnids nor anything that
    models are trained with: they are translated through the wnid.
    """
    index = {wnid: number for number, wnid in enumerate(wnids)}
    synsets = np.atleast_1d(read_mat(root / _META)["synsets"])
    wnid_of = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
    labels = [index[wnid_of[int(line)]] for line in read_lines(root / _GROUND_TRUTH)]
    files = [path.relative_to(root).as_posix() for path in image_files(root / "val")]
    if len(files) != len(labels):
        raise RequestError(f"{root / 'val'}: found {len(files):,} images, and {len(labels):,} labels in {_DEVKIT}")
    return files, np.array(labels, dtype=np.int64)


def subset_names(source: str) -> list[str]:
    """Returns the file names of one of SimCLR's lists, in the published order.

    Args:
        source: `1percent` or `10percent`.
    """
    packed = resources.files(__package__).joinpath(f"imagenet_subsets/{source}.txt.xz").read_bytes()
    return lzma.decompress(packed).decode().split()


def imagenet_wnids() -> tuple[str, ...]:
    """Returns the wnids of ImageNet-1k in the order of its class numbers, which SimCLR's lists all name."""
    return tuple(sorted({name.partition("_")[0] for name in subset_names("1percent")}))


def _imagenet(root: Path, source: str) -> Listing:
    wnids = _wnids(root)
    if source == "validation":
        if subfolders(root / "val"):
            files, labels = labelled_files(root, "val", wnids)
            return Listing(files=files, labels=labels, class_names=wnids)
        files, labels = _flat_validation(root, wnids)
        return Listing(files=files, labels=labels, class_names=wnids, tables=(_META, _GROUND_TRUTH))
    if source == "train":
        files, labels = labelled_files(root, "train", wnids)
        return Listing(files=files, labels=labels, class_names=wnids)
    index = {wnid: number for number, wnid in enumerate(wnids)}
    rows = [(name.partition("_")[0], name) for name in subset_names(source)]
    missing = {wnid for wnid, _ in rows} - set(wnids)
    if missing:
        raise RequestError(f"{root / 'train'}: no class folder {min(missing)}, which the list {source} names")
    return Listing(
        files=[f"train/{wnid}/{name}" for wnid, name in rows],
        labels=np.array([index[wnid] for wnid, _ in rows], dtype=np.int64),
        class_names=wnids,
    )


_IMAGENET_SOURCES: dict[str, tuple[str, ...]] = {"train": (), "1percent": (), "10percent": (), "validation": ()}


IMAGENET = listed(marker=_META, tables=_IMAGENET_SOURCES, parse=_imagenet)
"""For the flat validation folder; copies whose folders are sorted are read as any class folders are."""

IMAGENET_SUBSET = listed(marker="train/n01440764", tables=_IMAGENET_SOURCES, parse=_imagenet, sole=True)


def _class_folders(root: Path, source: str) -> Listing:
    class_names = tuple(subfolders(root / "train"))
    files, labels = labelled_files(root, source, class_names)
    return Listing(files=files, labels=labels, class_names=class_names)


COUNTRY211: PublishedReader = listed(
    marker="train", tables={"train": (), "valid": (), "test": ()}, parse=_class_folders, folders=("country211",)
)
"""The archive's own folder inside the dataset's; below that they are class folders, called as ISO calls countries."""
