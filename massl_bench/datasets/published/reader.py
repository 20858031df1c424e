"""How a published layout is recognised and read; most of them are tables that name image files."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import read_regular
from massl_bench.core.values import GroundTruth
from massl_bench.datasets.splits import FileSplit, ImageSplit, Labels


@dataclass(frozen=True, kw_only=True)
class PublishedReader:
    """The reader of one dataset's own layout. A source is a split by the name that a spec gives it."""

    marker: str | None
    """The file or directory whose presence shows the layout; None for embedded data."""
    other_markers: tuple[str, ...] = ()
    """Others that show it as well, in copies that were unpacked another way or not as a whole."""
    files: Callable[[Path, str], list[Path]]
    """(root, source) to all files that the split is read from."""
    read: Callable[[Path, str], ImageSplit]
    """(root, source) to the split."""
    folders: tuple[str, ...] = ("",)
    """Where the layout may begin below the dataset's directory: archives are unpacked in more than one way."""
    sole: bool = False
    """The split is defined by file names: neither class folders nor parquet files can serve in its place."""
    truth: Callable[[Path], GroundTruth] | None = None
    """(root) to what the queries of the split `queries` should find; None for datasets without such queries."""
    shared: tuple[str, ...] = ()
    """Sources that other datasets have as well, from the same files: their features are made once for all of them."""

    head_classes: Callable[[Path], Sequence[Sequence[int]]] | None = None
    """(root) to the classes of the head that stand for each class of a test set."""
    left_out: Callable[[Path], Sequence[str]] | None = None
    """(root) to the names of images that lie there and belong to no split."""

    def locate(self, place: Path) -> Path | None:
        """Returns the directory at or below `place` in which the layout begins, or None."""
        if self.marker is None:
            return None
        roots = [place / folder for folder in self.folders]
        markers = (self.marker, *self.other_markers)
        return next((root for root in roots if any((root / marker).exists() for marker in markers)), None)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What the tables of a dataset say of one split."""

    files: Sequence[str]
    """Of the images, relative to the layout's root, in the published order."""
    labels: Labels | None
    class_names: tuple[str, ...] | None = None
    boxes: NDArray[np.float64] | None = None
    """[N, 4], of the queries of landmarks."""
    masks: Sequence[str] | None = None
    """Of the images of a segmentation dataset, in their order: the files with the class of every pixel."""
    tables: tuple[str, ...] = ()
    """Further tables that were read, where their names are not the same in every copy."""


def listed(  # noqa: PLR0913  # what a layout has
    *,
    marker: str,
    other_markers: tuple[str, ...] = (),
    tables: dict[str, tuple[str, ...]],
    parse: Callable[[Path, str], Listing],
    folders: tuple[str, ...] = ("",),
    sole: bool = False,
    truth: Callable[[Path], GroundTruth] | None = None,
    shared: tuple[str, ...] = (),
) -> PublishedReader:
    """Returns the reader of a layout in which tables name the image files.

    Args:
        marker: shows the layout.
        other_markers: show it as well, in other copies.
        tables: the tables that each source is read from, relative to the root.
        parse: (root, source) to the listing; called when all the tables are there.
        folders: where the layout may begin.
        sole: whether no other layout can serve.
        truth: (root) to what the queries should find.
        shared: sources that other datasets have as well.
    """

    def listing(root: Path, source: str) -> Listing:
        where = ", ".join(tables[source]) or marker
        try:
            found = parse(root, source)
        except RequestError:
            raise
        except (OSError, ArithmeticError, LookupError, TypeError, ValueError, struct.error) as error:
            raise RequestError(
                f"{root}: {where}: not as published: {type(error).__name__}: {one_line(error)}; unpack it again"
            ) from None
        named = (*found.files, *(found.masks or ()))
        outside = next((name for name in named if name.startswith("/") or ".." in name.split("/")), None)
        if outside is not None:
            raise RequestError(
                f"{root}: {where}: not as published: it names {outside!r}, and images lie below the dataset's folder"
            )
        return found

    def files(root: Path, source: str) -> list[Path]:
        needed = [root / name for name in _of(tables, source)]
        if all(path.is_file() for path in needed):  # else the caller names the tables that are missing
            found = listing(root, source)
            needed += [root / name for name in (*found.tables, *found.files, *(found.masks or ()))]
        return needed

    def read(root: Path, source: str) -> ImageSplit:
        _of(tables, source)
        found = listing(root, source)
        return FileSplit(root, found.files, found.labels, found.class_names, found.boxes, found.masks)

    return PublishedReader(
        marker=marker,
        other_markers=other_markers,
        files=files,
        read=read,
        folders=folders,
        sole=sole,
        truth=truth,
        shared=shared,
    )


def _of(tables: dict[str, tuple[str, ...]], source: str) -> tuple[str, ...]:
    if source not in tables:
        raise RequestError(f"no split {source!r} in the published layout; there are: {', '.join(tables)}")
    return tables[source]


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a text file without those that are empty."""
    return [line.strip() for line in read_regular(path).decode("utf-8").splitlines() if line.strip()]
