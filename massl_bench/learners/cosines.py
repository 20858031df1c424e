"""Cosine similarities of every query with every row.

Shapes: Q queries, N database rows, D dimensions, M different rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.arrays import pieces
from massl_bench.core.devices import available_cores

_ROWS_TOGETHER = 2048
"""Rows that are normalised at a time; they stay in the processor's cache."""

_QUERIES_TOGETHER = 256
"""Queries whose similarities to a whole database are handed out at a time."""

_ROWS_MULTIPLIED = 1 << 17
"""Rows that are multiplied with some queries at a time: of a million at once OpenBLAS makes one thread's work."""

_ROWS_OF_A_THREAD = 1 << 15
"""Rows that are worth a thread of their own."""

LARGEST_CROWD = 4096
"""Rows that float32 cannot tell apart and that are settled in float64, for one query."""

_PLAIN_SQUARES = (1e-10, 1e10)
"""Squared norms of rows whose squares neither overflow nor lose a digit that float32 keeps of their sum."""


def cosine_similarities(
    queries_QD: NDArray[np.float32], database_ND: NDArray[np.float32]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yields (which queries, their cosine similarities to the whole database, float32 [q, N]), some queries at a time.

    Equal rows of the database have equal similarities. A matrix product does not promise that, as the place of a row
    decides how its sum is rounded: each different row is multiplied once.
    """
    unit_ND = unit_rows(database_ND)
    place_N = _places(unit_ND)
    different_MD = unit_ND
    if place_N is not None:
        _, first_M = np.unique(place_N, return_index=True)
        different_MD = unit_ND[first_M]
    for chosen, queries_qD in pieces(queries_QD, _QUERIES_TOGETHER):
        unit_qD, product_qM = unit_rows(queries_qD), np.empty((len(queries_qD), len(different_MD)), dtype=np.float32)
        for rows, different_mD in pieces(different_MD, _ROWS_MULTIPLIED):
            np.matmul(unit_qD, different_mD.T, out=product_qM[:, rows])
        yield chosen, product_qM if place_N is None else product_qM[:, place_N]


def resolution_of(dims: int) -> float:
    """Returns how far two float32 similarities may lie apart and change places.

    The rounding of a product of D terms grows with √D; this is twice that.
    """
    return float(np.float32(np.finfo(np.float32).eps * np.sqrt(dims)))


def straddling(similarities_QW: Any, boundaries: Sequence[int], resolution: float) -> Any:
    """Returns which neighbours float32 cannot assign to a side of a boundary, bool [Q, W].

    Args:
        similarities_QW: float32, the largest first; an array of NumPy or of torch, as the answer then is.
        boundaries: numbers of neighbours.
        resolution: of these similarities.
    """
    unsure_QW = similarities_QW > np.inf  # none
    for boundary in boundaries:
        if boundary < similarities_QW.shape[1]:
            inside_Q1 = similarities_QW[:, boundary - 1 : boundary]
            outside_Q1 = similarities_QW[:, boundary : boundary + 1]
            close_QW = (similarities_QW <= outside_Q1 + resolution) & (similarities_QW >= inside_Q1 - resolution)
            unsure_QW |= close_QW & (inside_Q1 - outside_Q1 <= resolution)
    return unsure_QW


def unit_rows(rows_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the rows at unit Euclidean norm, float32 and contiguous; rows of zeros stay zeros."""
    unit_ND = np.empty(rows_ND.shape, dtype=np.float32)
    _side_by_side(len(rows_ND), lambda part: _put_unit_rows(rows_ND[part], unit_ND[part]))
    return unit_ND


def _put_unit_rows(rows_ND: NDArray[np.float32], unit_ND: NDArray[np.float32]) -> None:
    smallest, largest = _PLAIN_SQUARES
    for chosen, rows_nD in pieces(rows_ND, _ROWS_TOGETHER):
        with np.errstate(over="ignore"):  # seen in what comes out
            square_n = _squares(rows_nD)
        if ((square_n > smallest) & (square_n < largest)).all():
            np.divide(rows_nD, np.sqrt(square_n)[:, None], out=unit_ND[chosen])
            continue
        # Scaling by the largest entry first (a power of two, so without rounding) keeps the squares in range.
        peak_n1 = np.max(np.abs(rows_nD), axis=1, keepdims=True, initial=0)
        _, exponent_n1 = np.frexp(peak_n1)
        scaled_nD = np.ldexp(rows_nD, -exponent_n1)
        norm_n = np.sqrt(_squares(scaled_nD))
        norm_n[norm_n == 0] = 1
        np.divide(scaled_nD, norm_n[:, None], out=unit_ND[chosen])


def _side_by_side(num_rows: int, work: Callable[[slice], None]) -> None:
    """Does some work on parts of many rows, as many at a time as there are cores."""
    threads = max(1, min(available_cores(), num_rows // _ROWS_OF_A_THREAD))
    edges = np.linspace(0, num_rows, threads + 1).astype(int).tolist()
    parts = [slice(start, stop) for start, stop in pairwise(edges)]
    if threads == 1:
        work(parts[0])
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, parts))


def _squares(rows_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    squares_N: NDArray[np.float32] = np.einsum("nd,nd->n", rows_ND, rows_ND, dtype=np.float32)
    return squares_N


def _places(rows_ND: NDArray[np.float32]) -> NDArray[np.int64] | None:
    """Returns where each row stands among the different ones, in order of their first, int64 [N]; None: all differ."""
    factors_D = np.random.default_rng(0).integers(1 << 32, size=rows_ND.shape[1], dtype=np.uint32) | np.uint32(1)
    sums_N = np.empty(len(rows_ND), dtype=np.uint32)

    def add_up(part: slice) -> None:
        for chosen, rows_nD in pieces(rows_ND[part], _ROWS_TOGETHER):
            # Whole numbers, whose sums do not depend on their order: equal rows have equal ones. −0 becomes 0.
            bits_nD = (rows_nD + np.float32(0)).view(np.uint32)
            sums_N[part][chosen] = np.einsum("nd,d->n", bits_nD, factors_D)

    _side_by_side(len(rows_ND), add_up)
    sorted_N = np.sort(sums_N)
    repeated_M = np.unique(sorted_N[1:][sorted_N[1:] == sorted_N[:-1]])
    if not len(repeated_M):
        return None
    place_N = np.minimum(np.searchsorted(repeated_M, sums_N), len(repeated_M) - 1)
    candidates = np.flatnonzero(repeated_M[place_N] == sums_N)
    first: dict[bytes, int] = {}  # by a hash of the row: the rows themselves would be held a second time
    first_N = np.arange(len(rows_ND))
    for row in candidates:
        first_N[row] = first.setdefault(blake2b(rows_ND[row] + np.float32(0), digest_size=16).digest(), int(row))
    if (first_N == np.arange(len(rows_ND))).all():
        return None
    return np.unique(first_N, return_inverse=True)[1].astype(np.int64)
