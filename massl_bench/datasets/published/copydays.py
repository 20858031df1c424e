"""Copydays: originals, and blocks of copies that went through one kind of change each (Douze et al., CIVR 2009).

The archives are unpacked in more than one way, and some of them can no longer be had: blocks other than the strong one
may be missing, and are then named. Distractors and images for a whitening are no part of Copydays: folders beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from massl_bench.core.errors import RequestError
from massl_bench.core.values import CopyTruth
from massl_bench.datasets.folders import image_files
from massl_bench.datasets.published.reader import PublishedReader
from massl_bench.datasets.splits import FileSplit, ImageSplit

_CROPS = tuple(f"crops/{level}" for level in (10, 15, 20, 30, 40, 50, 60, 70, 80))
_JPEG = tuple(f"jpegqual/{quality}" for quality in (3, 5, 8, 10, 15, 20, 30, 50, 75))
_BLOCKS = ("strong", *_CROPS, *_JPEG)
"""In the order of the queries: the first ones are those of the headline."""
_ARCHIVES = {"original": "original", "strong": "strong", "crops": "crop", "jpegqual": "jpeg"}
"""What the archive of each top folder is called after `copydays_`."""
_PREFIX = 4
"""Letters that the name of a strong copy shares with its original's."""


def _places(block: str) -> tuple[str, ...]:
    """Returns the folders in which a block may lie: as expected, or in a folder called after its archive."""
    top, _, level = block.partition("/")
    archive = f"copydays_{_ARCHIVES[top]}"
    return (block, f"{archive}/{block}", f"{archive}/{level}" if level else archive)


def _images(root: Path, block: str) -> list[Path]:
    """Returns the images of a block in sorted order; none where it is not there."""
    folder = next((root / place for place in _places(block) if (root / place).is_dir()), None)
    return image_files(folder) if folder is not None else []


def _needed(root: Path, block: str) -> list[Path]:
    found = _images(root, block)
    if not found:
        raise RequestError(
            f"{root}: no image in {block}/, which copy detection needs; unpack copydays_{block}.tar.gz there"
        )
    return found


def _originals(root: Path) -> list[Path]:
    return _needed(root, "original")


def _blocks(root: Path) -> dict[str, list[Path]]:
    """Returns the images of every block that is there."""
    found = {block: _images(root, block) for block in _BLOCKS}
    return {**{block: files for block, files in found.items() if files}, "strong": _needed(root, "strong")}


def _queries(root: Path) -> list[Path]:
    return [path for files in _blocks(root).values() for path in files]


def _beside(folder: str) -> Callable[[Path], list[Path]]:
    """Returns the listing of a folder that may be there, but not without an image."""

    def files(root: Path) -> list[Path]:
        found = image_files(root / folder)
        if not found and (root / folder).is_dir():
            raise RequestError(f"{root / folder}: no image in it; add the images, or remove the folder")
        return found

    return files


_SOURCES: Mapping[str, Callable[[Path], list[Path]]] = {
    "originals": _originals,
    "queries": _queries,
    "distractors": _beside("distractors"),
    "whitening": _beside("whitening"),
}


def _files(root: Path, source: str) -> list[Path]:
    return _SOURCES[source](root)


def _read(root: Path, source: str) -> ImageSplit:
    return FileSplit(root, [path.relative_to(root).as_posix() for path in _files(root, source)], None, None)


def _truth(root: Path) -> CopyTruth:
    """Returns the original of each copy: by its name in the strong block, by its place in the others.

    Raises:
        RequestError: A copy has no original, or more than one; or a block is not of one copy for each original.
    """
    originals, blocks = _originals(root), _blocks(root)
    rows = {"strong": _rows_by_name(originals, blocks["strong"])}
    for block, files in blocks.items():
        if block != "strong" and len(files) != len(originals):
            raise RequestError(
                f"{files[0].parent}: found {len(files)} copies, expected {len(originals)}, one for each original; "
                "unpack the archive again, or remove the folder to leave this block out"
            )
        rows.setdefault(block, list(range(len(files))))
    return CopyTruth(
        original=np.concatenate([np.array(rows[block], dtype=np.int64) for block in blocks]),
        block=np.repeat(np.array(list(blocks)), [len(files) for files in blocks.values()]),
        missing_blocks=tuple(block for block in _BLOCKS if block not in blocks),
    )


def _rows_by_name(originals: list[Path], copies: list[Path]) -> list[int]:
    """Returns the row of each copy's original: the one whose name begins with the same letters."""
    row_of: dict[str, int] = {}
    for row, path in enumerate(originals):
        if path.stem[:_PREFIX] in row_of:
            twin = originals[row_of[path.stem[:_PREFIX]]]
            raise RequestError(
                f"{path}: its name begins with {path.stem[:_PREFIX]!r}, as {twin.name} does: the first {_PREFIX} "
                "letters tell which original a strong copy was made of"
            )
        row_of[path.stem[:_PREFIX]] = row
    for path in copies:
        if path.stem[:_PREFIX] not in row_of:
            raise RequestError(
                f"{path}: no original's name begins with {path.stem[:_PREFIX]!r}, as its copy's must; found "
                f"{', '.join(original.name for original in originals[:3])}, … ({len(originals)} in all)"
            )
    return [row_of[path.stem[:_PREFIX]] for path in copies]


COPYDAYS = PublishedReader(
    marker="original",
    other_markers=("copydays_original", "strong", "copydays_strong"),
    files=_files,
    read=_read,
    truth=_truth,
    folders=("", "copydays"),
    sole=True,
)
