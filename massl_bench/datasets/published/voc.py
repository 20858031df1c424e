"""VOC2007 classification: one list a class, several classes an image (Everingham et al., 2010)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from massl_bench.datasets.published.reader import Listing, listed, read_lines

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
_SETS = "ImageSets/Main"
_VALUES = {"1": 1, "0": 0, "-1": -1}
"""Present; only objects that are marked difficult; absent."""


def _tables(source: str) -> tuple[str, ...]:
    return (f"{_SETS}/{source}.txt", *(f"{_SETS}/{name}_{source}.txt" for name in VOC_CLASSES))


def _voc2007(root: Path, source: str) -> Listing:
    """Returns the listing of a split; its labels are int8 [N, 20].

    The class lists say what the annotations of the objects add up to, difficult objects included, so that these are not
    read. How a difficult class counts is left to the protocol.
    """
    order, *classes = _tables(source)
    ids = read_lines(root / order)
    columns = []
    for table in classes:
        # One or two spaces lie between the id and the value.
        values = {name: _VALUES[value] for name, value in (line.split() for line in read_lines(root / table))}
        columns.append([values[name] for name in ids])
    return Listing(
        files=[f"JPEGImages/{name}.jpg" for name in ids],
        labels=np.array(columns, dtype=np.int8).T.copy(),
        class_names=VOC_CLASSES,
    )


VOC2007 = listed(
    marker=_SETS,
    tables={source: _tables(source) for source in ("train", "val", "test")},
    parse=_voc2007,
    folders=("VOCdevkit/VOC2007", "VOC2007", ""),
)
