"""Large arrays, a few rows at a time: what a memory-mapped array was read for leaves this process's memory again.

Shapes: N rows, D dimensions.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pieces(rows_ND: NDArray[Any], count: int) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yields (which rows, these rows), `count` at a time; rows of a file are let go before the next ones."""
    for start in range(0, len(rows_ND), count):
        chosen = slice(start, min(start + count, len(rows_ND)))
        yield chosen, rows_ND[chosen]
        let_go(rows_ND)


def let_go(array: NDArray[Any]) -> None:
    """Tells the system that the pages of an array that is mapped from a file, read only, are not needed for now.

    They stay in the system's cache of the file, and are found there when they are read again.
    """
    mapped = file_of(array)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


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
