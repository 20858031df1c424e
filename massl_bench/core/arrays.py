"""Large arrays, a few rows at a time: what a memory-mapped array was read for leaves this process's memory again.

Shapes: N rows, D dimensions.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Stacked:
    """Arrays [n, D] of one type that are read as if they stood one under the other; none is copied as a whole."""

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        self.parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in self.parts])
        self.shape = (int(self._ends[-1]), self.parts[0].shape[1])
        self.nbytes = sum(part.nbytes for part in self.parts)

    def __len__(self) -> int:
        """Returns N."""
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        """Returns a copy of rows [n, D]: consecutive ones, or chosen ones in any order."""
        chosen = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        found = np.empty((len(chosen), self.shape[1]), dtype=self.parts[0].dtype)
        part_n = np.searchsorted(self._ends, chosen, side="right")
        for number in np.unique(part_n):
            start = 0 if number == 0 else self._ends[number - 1]
            found[part_n == number] = self.parts[number][chosen[part_n == number] - start]
        return found


def stacked(parts: Sequence[NDArray[Any]]) -> NDArray[Any] | Stacked:
    """Returns arrays as one under the other; a single one as it is."""
    return parts[0] if len(parts) == 1 else Stacked(parts)


def pieces(rows_ND: NDArray[Any], count: int) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yields (which rows, these rows), `count` at a time; rows of a file are let go before the next ones."""
    for start in range(0, len(rows_ND), count):
        chosen = slice(start, min(start + count, len(rows_ND)))
        yield chosen, rows_ND[chosen]
        let_go(rows_ND)


def let_go(array: NDArray[Any] | Stacked) -> None:
    """Tells the system that the pages of an array that is mapped from a file, read only, are not needed for now.

    They stay in the system's cache of the file, and are found there when they are read again.
    """
    for part in array.parts if isinstance(array, Stacked) else (array,):
        mapped = file_of(part)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def in_file(array: NDArray[Any] | Stacked) -> bool:
    """Tells whether an array lies in a file, and not in memory."""
    return all(file_of(part) is not None for part in (array.parts if isinstance(array, Stacked) else (array,)))


def file_of(array: NDArray[Any]) -> mmap.mmap | None:
    """Returns the read-only mapping of a file that an array lies in; None for an array in memory."""
    base: Any = array
    while base is not None and not (isinstance(base, np.memmap) and base.mode == "r"):
        base = getattr(base, "base", None)
    mapped = getattr(base, "_mmap", None)
    return mapped if isinstance(mapped, mmap.mmap) else None


def first_not_finite(rows_ND: NDArray[np.floating], count: int = 4096) -> tuple[int, int]:
    """Returns (number of rows that hold NaN or an infinity, the first of them, or −1)."""
    broken, first = 0, -1
    for chosen, rows_nD in pieces(rows_ND, count):
        broken_n = ~np.isfinite(rows_nD).all(axis=1)
        if first < 0 and broken_n.any():
            first = chosen.start + int(broken_n.argmax())
        broken += int(broken_n.sum())
    return broken, first
