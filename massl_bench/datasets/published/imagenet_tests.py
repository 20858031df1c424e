"""Test sets for a head that is trained on ImageNet-1k, each in its publisher's layout.

ImageNetV2 (Recht et al., 2019) numbers its class folders, and "10" sorts before "2". ImageNet-A and -R (Hendrycks et
al., 2021) show 200 classes each, -Sketch (Wang et al., 2019) and -C (Hendrycks and Dietterich, 2019) all of them, under
their wnids. ReaL (Beyer et al., 2020) has new labels for ImageNet's own validation images. ObjectNet (Barbu et al.,
2019) has classes of its own, 113 of which are one or more of ImageNet's.

Shapes: N images, C classes of ImageNet.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from massl_bench.core.errors import RequestError
from massl_bench.core.files import parse_json, read_regular
from massl_bench.datasets.folders import image_files, labelled_files, subfolders
from massl_bench.datasets.published import class_folders
from massl_bench.datasets.published.reader import Listing, PublishedReader, listed

_WNID = re.compile(r"n\d{8}")
_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")


def _numbered(folder: str) -> PublishedReader:
    """Returns the reader of class folders that are called after the classes' numbers."""

    def parse(root: Path, source: str) -> Listing:
        names = subfolders(root / source)
        other = next((name for name in names if not name.isdecimal()), None)
        if other is not None:
            raise RequestError(f"{root / source}: found the class folder {other!r}, expected numbers from 0")
        names.sort(key=int)
        files, labels = labelled_files(root, source, names)
        numbers = np.array([int(name) for name in names], dtype=np.int64)
        return Listing(files=[files[row] for row in np.argsort(labels, kind="stable")], labels=np.sort(numbers[labels]))

    return listed(marker=folder, tables={folder: ()}, parse=parse, sole=True)


IMAGENET_V2 = _numbered("imagenetv2-matched-frequency-format-val")
IMAGENET_V2_THRESHOLD = _numbered("imagenetv2-threshold0.7-format-val")
IMAGENET_V2_TOP = _numbered("imagenetv2-top-images-format-val")


def _wnids_in(folder: Path) -> tuple[str, ...]:
    """Returns the wnids that have a folder; raises `RequestError` for one that is not of ImageNet-1k."""
    found = tuple(name for name in subfolders(folder) if _WNID.fullmatch(name))
    strange = sorted(set(found) - set(class_folders.imagenet_wnids()))
    if strange:
        raise RequestError(f"{folder}: the class folder {strange[0]} is no class of ImageNet-1k")
    return found


def _subset(folder: str) -> PublishedReader:
    """Returns the reader of some of ImageNet's classes: they are numbered among themselves."""

    def parse(root: Path, source: str) -> Listing:
        wnids = _wnids_in(root / folder)
        files, labels = labelled_files(root, folder, wnids)
        return Listing(files=files, labels=labels, class_names=wnids)

    def head_classes(root: Path) -> list[tuple[int]]:
        number = {wnid: index for index, wnid in enumerate(class_folders.imagenet_wnids())}
        return [(number[wnid],) for wnid in _wnids_in(root / folder)]

    return replace(listed(marker=folder, tables={"test": ()}, parse=parse, sole=True), head_classes=head_classes)


IMAGENET_A = _subset("imagenet-a")
IMAGENET_R = _subset("imagenet-r")


def _all_classes(root: Path, source: str) -> Listing:
    _wnids_in(root / source)
    wnids = class_folders.imagenet_wnids()
    files, labels = labelled_files(root, source, wnids)
    return Listing(files=files, labels=labels, class_names=wnids)


IMAGENET_SKETCH = listed(marker="sketch", tables={"sketch": ()}, parse=_all_classes, sole=True)

BENCHMARK_CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Published beside the fifteen of the benchmark, to choose methods on."""
SEVERITIES = (1, 2, 3, 4, 5)

IMAGENET_C = listed(
    marker=BENCHMARK_CORRUPTIONS[0],
    tables={f"{name}/{level}": () for name in (*BENCHMARK_CORRUPTIONS, *EXTRA_CORRUPTIONS) for level in SEVERITIES},
    parse=_all_classes,
    folders=("", "ImageNet-C", "imagenet-c"),
    sole=True,
)

_REAL = "real.json"


def _real(root: Path) -> tuple[list[str], list[list[int]]]:
    """Returns the validation images in the order of their numbers, and the labels of each, maybe none."""
    labels = parse_json(read_regular(root / _REAL))
    by_number: dict[int, Path] = {}
    for path in image_files(root / "val"):
        number = _VALIDATION_NAME.fullmatch(path.stem)
        if number is None:
            raise RequestError(f"{path}: expected names as ILSVRC2012_val_00000001.JPEG, by which {_REAL} counts")
        by_number[int(number[1])] = path
    if sorted(by_number) != list(range(1, len(labels) + 1)):
        raise RequestError(
            f"{root / 'val'}: found {len(by_number):,} validation images, and {_REAL} has labels for {len(labels):,}, "
            "numbered from 1; it needs all of them"
        )
    return [by_number[number].relative_to(root).as_posix() for number in sorted(by_number)], labels


def _real_listing(root: Path, source: str) -> Listing:
    files, labels = _real(root)
    kept = [row for row, right in enumerate(labels) if right]
    labels_NC = np.full((len(kept), len(class_folders.imagenet_wnids())), -1, dtype=np.int8)
    for place, row in enumerate(kept):
        labels_NC[place, labels[row]] = 1
    return Listing(files=[files[row] for row in kept], labels=labels_NC, tables=(_REAL,))


def _unlabelled(root: Path) -> list[str]:
    return [file for file, right in zip(*_real(root), strict=True) if not right]


IMAGENET_REAL = replace(
    listed(marker=_REAL, tables={"test": (_REAL,)}, parse=_real_listing, sole=True), left_out=_unlabelled
)
"""Beside `val/`, sorted into class folders or flat: the images are told by their names."""

_OBJECTNET = "objectnet-1.0"
_MAPPINGS = tuple(
    f"{_OBJECTNET}/mappings/{name}"
    for name in (
        "folder_to_objectnet_label.json",
        "objectnet_to_imagenet_1k.json",
        "pytorch_to_imagenet_2012_id.json",
        "imagenet_to_label_2012_v2",
    )
)


def _objectnet_classes(root: Path) -> dict[str, list[int]]:
    """Returns the numbers of ImageNet's classes that each folder shows, of the folders that show any, in sorted order.

    A folder has a label of ObjectNet's, that one or more labels of ImageNet's, and these are lines of a list, of which
    another table says what number a network gives them.
    """
    folder_label, to_imagenet, line_of = (_table(root / name) for name in _MAPPINGS[:3])
    lines = read_regular(root / _MAPPINGS[3]).decode("utf-8").splitlines()
    number_of = {lines[int(line)].strip(): int(number) for number, line in line_of.items()}
    return {
        folder: [number_of[label] for label in str(to_imagenet[name]).split("; ")]
        for folder, name in sorted(folder_label.items())
        if name in to_imagenet
    }


def _table(path: Path) -> dict[str, Any]:
    content = parse_json(read_regular(path))
    if not isinstance(content, dict):
        raise TypeError(f"{path.name} is no table")
    return content


def _objectnet(root: Path, source: str) -> Listing:
    folders = list(_objectnet_classes(root))
    files: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = image_files(root / _OBJECTNET / "images" / folder)
        files += [path.relative_to(root).as_posix() for path in found]
        labels += [label] * len(found)
    return Listing(files=files, labels=np.array(labels, dtype=np.int64), class_names=tuple(folders))


def _not_of_imagenet(root: Path) -> list[str]:
    images = root / _OBJECTNET / "images"
    others = sorted(set(subfolders(images)) - set(_objectnet_classes(root)))
    return [path.relative_to(root).as_posix() for folder in others for path in image_files(images / folder)]


def _objectnet_numbers(root: Path) -> Sequence[Sequence[int]]:
    return list(_objectnet_classes(root).values())


OBJECTNET = replace(
    listed(marker=_MAPPINGS[1], tables={"test": _MAPPINGS}, parse=_objectnet, sole=True),
    head_classes=_objectnet_numbers,
    left_out=_not_of_imagenet,
)

IMAGENET_TESTS: dict[str, PublishedReader] = {
    "imagenet-v2": IMAGENET_V2,
    "imagenet-v2-threshold0.7": IMAGENET_V2_THRESHOLD,
    "imagenet-v2-top-images": IMAGENET_V2_TOP,
    "imagenet-a": IMAGENET_A,
    "imagenet-r": IMAGENET_R,
    "imagenet-sketch": IMAGENET_SKETCH,
    "imagenet-c": IMAGENET_C,
    "imagenet-real": IMAGENET_REAL,
    "objectnet": OBJECTNET,
}
