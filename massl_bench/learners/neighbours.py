"""Exact nearest neighbours by cosine similarity.

Shapes: Q queries, N database rows, D dimensions, K neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.arrays import let_go, pieces
from massl_bench.core.errors import RequestError
from massl_bench.core.values import FeatureBank, SearchBackend
from massl_bench.learners.cosines import LARGEST_CROWD, resolution_of, straddling, unit_rows
from massl_bench.learners.faiss_backend import DEFAULT_BACKEND, import_faiss, large_blocks

if TYPE_CHECKING:  # FAISS needs no torch
    from torch import Tensor

    from massl_bench.learners.device_neighbours import DeviceNeighbours

_DATABASE_CHUNK_BYTES = 96 << 20
"""A larger database (ImageNet at 768 dimensions is 3.9 GB) is normalised and searched in pieces of this size."""

_ROWS_TOGETHER = 2048
"""Rows that are normalised at a time, and queries that are searched: FAISS writes out their similarities."""

_SIMILARITY_CHUNK_BYTES = 1 << 28
"""Size of a block of similarities, where one is written out."""

_NEIGHBOURS_ON_A_DEVICE = 1 << 26
"""Neighbours of all queries that a device holds at a time: about 2 GB, with what settles them."""

_SPARE = 8
"""Neighbours that are found beyond those that were asked."""

_PAIRS_TOGETHER = 512
"""Pairs of vectors that are multiplied in float64 at a time; they stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The K nearest database rows of each query, by higher similarity, then by lower index."""

    similarities_QK: NDArray[np.float32]
    indices_QK: NDArray[np.int64]


def where_searched(bank: FeatureBank, backend: SearchBackend) -> NDArray[np.float32] | Tensor:
    """Returns a bank's features where they are searched: on the GPU, if they lie there or fit there; as they are."""
    if backend.name != "torch":
        return bank.features
    from massl_bench.learners.device_neighbours import held_on

    return held_on(backend.device, bank.features if bank.on_device is None else bank.on_device)


def cosine_neighbours(
    queries_QD: NDArray[np.float32],
    database_ND: NDArray[np.float32],
    k: int,
    *,
    boundaries: Sequence[int] = (),
    backend: SearchBackend = DEFAULT_BACKEND,
) -> Neighbours:
    """Returns what `nearest` returns, in NumPy's arrays; the arguments and errors are the same."""
    if backend.name != "torch":
        found = nearest(queries_QD, database_ND, k, boundaries=boundaries, backend=backend)
        assert isinstance(found, Neighbours)
        return found
    from massl_bench.learners.device_neighbours import held_on

    held_ND = held_on(backend.device, database_ND)
    at_once = max(1, min(len(queries_QD), _NEIGHBOURS_ON_A_DEVICE // max(k, 1)))
    parts = []
    for start in range(0, max(1, len(queries_QD)), at_once):
        queries_qD = queries_QD[start : start + at_once]
        found = nearest(queries_qD, held_ND, k, boundaries=boundaries, backend=backend)
        assert not isinstance(found, Neighbours)
        parts.append((found.similarities_QK.cpu().numpy(), found.indices_QK.cpu().numpy()))
    return Neighbours(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def nearest(
    queries_QD: NDArray[np.float32] | Tensor,
    database_ND: NDArray[np.float32] | Tensor,
    k: int,
    *,
    boundaries: Sequence[int] = (),
    backend: SearchBackend = DEFAULT_BACKEND,
) -> Neighbours | DeviceNeighbours:
    """Returns the k database rows of largest cosine similarity for every query. Exact; on a GPU where it is searched.

    Rows need not be normalised; a row of zeros has similarity 0 to everything. Equal similarities are ordered by
    database index. A matrix product in float32 cannot tell similarities apart that differ by its rounding: where such
    a group straddles the k-th place (or one of `boundaries`), it is settled in float64. So the sets of neighbours are
    the same for every backend, block size and device.

    Args:
        queries_QD: float32, finite; as `where_searched` returns them.
        database_ND: likewise; may be memory-mapped, and is normalised piece by piece.
        k: between 1 and N.
        boundaries: smaller numbers of neighbours whose sets must be exact as well.
        backend: where to search.

    Raises:
        RequestError: k is out of range, the dimensions differ, or FAISS's installation is broken.
    """
    num_rows = len(database_ND)
    if not 1 <= k <= num_rows:
        raise RequestError(f"k = {k} neighbours asked of {num_rows} database rows; allowed: 1 to {num_rows}")
    if queries_QD.shape[1] != database_ND.shape[1]:
        raise RequestError(
            f"queries have {queries_QD.shape[1]} dimensions, the database {database_ND.shape[1]}: "
            "features of two models?"
        )
    if backend.name == "torch":
        from massl_bench.learners.device_neighbours import nearest_on

        return nearest_on(backend.device, queries_QD, database_ND, k, spare=_SPARE, boundaries=boundaries)
    assert isinstance(queries_QD, np.ndarray)
    assert isinstance(database_ND, np.ndarray)
    # A few neighbours more than asked show whether a group of equals straddles the k-th place.
    wanted = min(k + _SPARE, num_rows)
    best = Neighbours(
        np.full((len(queries_QD), wanted), -np.inf, dtype=np.float32),
        np.full((len(queries_QD), wanted), -1, dtype=np.int64),
    )
    for rows in _even_pieces(num_rows, max(wanted, _DATABASE_CHUNK_BYTES // (4 * database_ND.shape[1]))):
        unit_MD = unit_rows(database_ND[rows])
        for chosen, queries_qD in pieces(queries_QD, _ROWS_TOGETHER):
            found = _search(unit_rows(queries_qD), unit_MD, min(wanted, len(unit_MD)))
            found.indices_QK[found.indices_QK >= 0] += rows.start
            _merge(best, chosen, found)
        let_go(database_ND)
    if (best.indices_QK < 0).any():
        raise RequestError("the search found fewer neighbours than asked: the features are not finite")
    return _settle(best, _Vectors(queries_QD, database_ND), (*boundaries, k))


def num_more_similar(
    queries_QD: NDArray[np.float32],
    database_ND: NDArray[np.float32],
    rows: Sequence[NDArray[np.int64]],
    others_MD: NDArray[np.float32],
) -> list[NDArray[np.int64]]:
    """Returns how many other rows are more similar to a query than some rows of the database.

    The others may be many: they are read once, piece by piece. What float32 cannot tell apart is settled in float64.

    Args:
        queries_QD: float32, finite.
        database_ND: float32, finite.
        rows: of the database, for each query.
        others_MD: float32, finite; may be memory-mapped.

    Returns:
        For each query, the number of others for each of its rows.
    """
    of_rows, resolution = _Vectors(queries_QD, database_ND), np.finfo(np.float32).eps * np.sqrt(queries_QD.shape[1])
    limits = [_exact_cosines(of_rows, np.full(len(each), query), each) for query, each in enumerate(rows)]
    counts = [np.zeros(len(each), dtype=np.int64) for each in rows]
    unit_QD, others = unit_rows(queries_QD), _Vectors(queries_QD, others_MD)
    for chosen in _even_pieces(len(others_MD), max(1, _DATABASE_CHUNK_BYTES // (4 * queries_QD.shape[1]))):
        similarities_QM = unit_QD @ unit_rows(others_MD[chosen]).T
        for query, (similarity_M, limit_R) in enumerate(zip(similarities_QM, limits, strict=True)):
            order_M = np.argsort(similarity_M)
            sorted_M = similarity_M[order_M].astype(np.float64)
            surely_R = np.searchsorted(sorted_M, limit_R + resolution, side="right")
            maybe_R = np.searchsorted(sorted_M, limit_R - resolution, side="left")
            counts[query] += len(order_M) - surely_R
            for number in np.flatnonzero(maybe_R < surely_R):
                close = order_M[maybe_R[number] : surely_R[number]]
                counts[query][number] += _num_above(others, query, close + chosen.start, limit_R[number])
        let_go(others_MD)
    return counts


def _num_above(vectors: _Vectors, query: int, rows: NDArray[np.int64], limit: float) -> int:
    """Returns how many rows are more similar to a query than a limit, in float64."""
    return int((_exact_cosines(vectors, np.full(len(rows), query), rows) > limit).sum())


def _search(unit_QD: NDArray[np.float32], unit_MD: NDArray[np.float32], k: int) -> Neighbours:
    """Returns the k best of rows of unit length, ordered by similarity; order and choice among equals are open."""
    faiss = import_faiss()
    with large_blocks():
        similarities_QK, indices_QK = faiss.knn(unit_QD, unit_MD, k, metric=faiss.METRIC_INNER_PRODUCT)
    return Neighbours(similarities_QK, indices_QK)


def _even_pieces(num_rows: int, largest: int) -> Iterator[slice]:
    """Yields slices of about equal length: no last one of a few rows, which would cost a search of its own."""
    edges = np.linspace(0, num_rows, -(-num_rows // largest) + 1).astype(int).tolist()
    yield from (slice(start, stop) for start, stop in pairwise(edges))


def _merge(best: Neighbours, chosen: slice, found: Neighbours) -> None:
    """Puts what was found for some queries among their best, in place; the rows found have the larger indices."""
    if found.indices_QK.shape[1] == best.indices_QK.shape[1] and (best.indices_QK[chosen] < 0).all():
        best.similarities_QK[chosen], best.indices_QK[chosen] = found.similarities_QK, found.indices_QK
        return
    similarities = np.concatenate([best.similarities_QK[chosen], found.similarities_QK], axis=1)
    indices = np.concatenate([best.indices_QK[chosen], found.indices_QK], axis=1)
    order = np.argsort(-similarities, axis=1, kind="stable")[:, : best.indices_QK.shape[1]]
    best.similarities_QK[chosen] = np.take_along_axis(similarities, order, 1)
    best.indices_QK[chosen] = np.take_along_axis(indices, order, 1)


@dataclass(frozen=True, eq=False)
class _Vectors:
    """The features of a search, as they were given."""

    queries_QD: NDArray[np.float32]
    database_ND: NDArray[np.float32]


def _settle(best: Neighbours, vectors: _Vectors, boundaries: Sequence[int]) -> Neighbours:
    """Returns the first max(boundaries) neighbours, sets exact at every boundary, ordered by value, then index."""
    similarities_QW, k = best.similarities_QK, max(boundaries)
    num_found, (num_rows, dims) = similarities_QW.shape[1], vectors.database_ND.shape
    resolution = resolution_of(dims)
    unsure_QW = straddling(similarities_QW, boundaries, resolution)
    crowded_Q = np.zeros(len(similarities_QW), dtype=bool)
    if num_found < num_rows:
        crowded_Q = similarities_QW[:, k - 1] - similarities_QW[:, -1] <= resolution
        for query, similarity_N in _similarities_to_all(np.flatnonzero(crowded_Q), vectors):
            _settle_crowd(best, query, similarity_N, vectors, (k, resolution))
        unsure_QW[crowded_Q] = False
    values_QW = similarities_QW.astype(np.float64)
    query_P, place_P = np.nonzero(unsure_QW)
    values_QW[query_P, place_P] = _exact_cosines(vectors, query_P, best.indices_QK[query_P, place_P])

    equal_Q = (similarities_QW[:, 1:] == similarities_QW[:, :-1]).any(axis=1)
    disorder_Q = (unsure_QW.any(axis=1) | equal_Q) & ~crowded_Q  # crowds are in order already
    indices = best.indices_QK[disorder_Q]
    order = np.argsort(indices, axis=1)
    by_value = np.argsort(-np.take_along_axis(values_QW[disorder_Q], order, 1), axis=1, kind="stable")
    order = np.take_along_axis(order, by_value, 1)
    best.indices_QK[disorder_Q] = np.take_along_axis(indices, order, 1)
    best.similarities_QK[disorder_Q] = np.take_along_axis(values_QW[disorder_Q], order, 1)
    return Neighbours(best.similarities_QK[:, :k], best.indices_QK[:, :k])


def _exact_cosines(vectors: _Vectors, query_P: NDArray[np.int64], row_P: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the cosines of P pairs of a query and a database row, computed in float64."""
    cosine_P = np.empty(len(query_P))
    for start in range(0, len(query_P), _PAIRS_TOGETHER):
        piece = slice(start, start + _PAIRS_TOGETHER)
        left_PD = vectors.queries_QD[query_P[piece]].astype(np.float64)
        right_PD = vectors.database_ND[row_P[piece]].astype(np.float64)
        product_P, left_P, right_P = (
            np.einsum("pd,pd->p", one, other)
            for one, other in ((left_PD, right_PD), (left_PD, left_PD), (right_PD, right_PD))
        )
        lengths_P = np.sqrt(left_P) * np.sqrt(right_P)
        cosine_P[piece] = product_P / np.where(lengths_P > 0, lengths_P, 1)
    return cosine_P


def _settle_crowd(
    best: Neighbours, query: int, similarity_N: NDArray[np.float32], vectors: _Vectors, limits: tuple[int, float]
) -> None:
    """Replaces, in place, the first k neighbours of a query around whose k-th place lie more rows than were found.

    Args:
        best: the neighbours.
        query: its number.
        similarity_N: its similarities to the whole database, in float32.
        vectors: the features.
        limits: (k, resolution).
    """
    k, resolution = limits
    kth = -np.partition(-similarity_N, k - 1)[k - 1]
    candidate_M = np.flatnonzero(similarity_N >= kth - resolution)
    if len(candidate_M) <= LARGEST_CROWD:
        value_M = _exact_cosines(vectors, np.full(len(candidate_M), query), candidate_M)
    else:  # copies of one item, whose similarities are equal in float32 too
        value_M = similarity_N[candidate_M].astype(np.float64)
    order = np.argsort(-value_M, kind="stable")[:k]
    best.indices_QK[query, :k] = candidate_M[order]
    best.similarities_QK[query, :k] = value_M[order]


def _similarities_to_all(queries: NDArray[np.int64], vectors: _Vectors) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yields (query, similarities to the whole database, float32 [N])."""
    num_rows, dims = vectors.database_ND.shape
    query_chunk = max(1, _SIMILARITY_CHUNK_BYTES // (4 * num_rows))
    row_chunk = max(1, _DATABASE_CHUNK_BYTES // (4 * dims))
    for start in range(0, len(queries), query_chunk):
        chosen = queries[start : start + query_chunk]
        unit_BD = unit_rows(vectors.queries_QD[chosen])
        similarities_BN = np.empty((len(chosen), num_rows), dtype=np.float32)
        for first in range(0, num_rows, row_chunk):
            rows = slice(first, first + row_chunk)
            np.matmul(unit_BD, unit_rows(vectors.database_ND[rows]).T, out=similarities_BN[:, rows])
        yield from zip(chosen.tolist(), similarities_BN, strict=True)
