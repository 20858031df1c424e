"""Test items that have a duplicate elsewhere are left out of a second measurement, beside the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from massl_bench.bench.duplicates import LeftAside, Overlap, read_overlap
from massl_bench.bench.planned import ImageCell, PlannedCell
from massl_bench.core.errors import RequestError
from massl_bench.core.values import FeatureBank
from massl_bench.core.wording import option

_ROLE = "test"
"""The split whose items can be left out: a ground truth counts those of the others by their rows."""


def with_and_without(cells: Sequence[PlannedCell], path: Path) -> list[PlannedCell]:
    """Returns the cells, each that has duplicates among its test items followed by the same one without them.

    Raises:
        RequestError: The file is no overlap, is of other data, or names no test item of any cell.
    """
    found = read_overlap(path)
    names = (found.a.dataset, found.b.dataset)
    both: list[PlannedCell] = []
    for cell in cells:
        both.append(cell)
        if isinstance(cell, ImageCell) and cell.dataset.name in names and _ROLE in cell.dataset.sources:
            aside = _aside(cell, found, path)
            both += [replace(cell, aside=aside)] if aside is not None else []
    if len(both) == len(cells):
        raise RequestError(
            f"{path} has no duplicate among the test images of this run; it compares {' and '.join(names)}, and found "
            f"{len(found.pairs):,} pairs",
            field="without_duplicates",
        )
    return both


def _aside(cell: ImageCell, found: Overlap, path: Path) -> LeftAside | None:
    dataset = cell.dataset
    sides = [side for side in (found.a, found.b) if side.dataset == dataset.name]
    if any(side.fingerprint != dataset.fingerprint for side in sides):
        raise RequestError(
            f"{path} is of other images than {dataset.name} ({dataset.place}) has now: compare them again"
        )
    if dataset.spec is not None and dataset.spec.corruptions is not None:
        raise RequestError(f"{dataset.name} shows the same images in blocks, which must stay whole")
    if cell.limit(_ROLE) is not None:
        raise RequestError("takes the whole test split", field="without_duplicates", remedy="leave the limit out")
    items = [item for pair in found.pairs for item, side in ((pair.a, found.a), (pair.b, found.b)) if side in sides]
    rows = sorted({item.row for item in items if item.split == _ROLE})
    if not rows:
        return None
    split, other = dataset.split(_ROLE), found.b if found.a in sides else found.a
    where = "others of its own" if other in sides else f"images of {other.dataset}"
    return LeftAside(
        role=_ROLE,
        rows=tuple(rows),
        names=tuple(f"{split.locate(row)}: a duplicate" for row in rows),
        departure=f"{option('without_duplicates')}: {len(rows)} test images left out, equal or nearly equal to {where}",
    )


def left_aside(banks: Mapping[str, FeatureBank], aside: LeftAside | None) -> dict[str, FeatureBank]:
    """Returns the banks of a cell without the items that are left aside; raises `RequestError` where none is left."""
    if aside is None:
        return dict(banks)
    bank = banks[aside.role]
    if bank.skipped:
        raise RequestError("corrupt images were skipped, and duplicates are counted by their rows; repair them first")
    kept = np.setdiff1d(np.arange(len(bank)), aside.rows)
    if not len(kept):
        raise RequestError(f"every one of the {len(bank):,} {aside.role} images has a duplicate: nothing is left")
    smaller = replace(
        bank,
        features=bank.features[kept],
        labels=bank.labels[kept] if bank.labels is not None else None,
        ids=bank.ids[kept],
        skipped=aside.names,
    )
    return {**banks, aside.role: smaller}
