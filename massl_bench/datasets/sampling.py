"""Some items of a split, drawn class by class. Shapes: N items, n of them drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.files import sha256_of


def balanced_rows(labels_N: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Returns the rows of a sample that has as many items of each class as there can be, ascending, [count].

    A class with fewer items than its share gives all of them, and the others more.

    Args:
        labels_N: class indices.
        count: n, from the number of classes to N.
        seed: of the draw.

    Raises:
        ValueError: There are more classes than items asked for.
    """
    classes, sizes = np.unique(labels_N, return_counts=True)
    if count < len(classes):
        raise ValueError(f"{len(classes)} classes need at least as many items")
    rng = np.random.default_rng(seed)
    drawn: list[NDArray[np.int64]] = []
    left = count
    for done, place in enumerate(np.argsort(sizes, kind="stable")):
        taken = min(int(sizes[place]), left // (len(classes) - done))
        drawn.append(rng.permutation(np.flatnonzero(labels_N == classes[place]))[:taken])
        left -= taken
    return np.sort(np.concatenate(drawn))


def plain_rows(num_items: int, count: int, seed: int) -> NDArray[np.int64]:
    """Returns the rows of a sample of items without classes, ascending, [count]."""
    return np.sort(np.random.default_rng(seed).permutation(num_items)[:count])


def divided_rows(
    labels_N: NDArray[np.int64], names: Sequence[str], share: float, seed: int
) -> dict[str, NDArray[np.int64]]:
    """Returns the rows of `train` and `test`, ascending: of each class `share` for testing, and at least one for each.

    Which items these are depends on their own names and those of their class alone.
    """
    is_test_N = np.zeros(len(names), dtype=bool)
    for number in np.unique(labels_N):
        rows = sorted(np.flatnonzero(labels_N == number).tolist(), key=lambda row: sha256_of([seed, names[row]]))
        is_test_N[rows[: min(len(rows) - 1, max(1, round(share * len(rows))))]] = True
    return {"train": np.flatnonzero(~is_test_N), "test": np.flatnonzero(is_test_N)}
