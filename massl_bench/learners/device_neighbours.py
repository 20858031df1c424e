"""Exact nearest neighbours on a GPU: rows are normalised, searched and settled where they lie.

The sets of neighbours are those of `neighbours.cosine_neighbours`, whose rules these are. FAISS is not asked here: of
the time of its search on a GPU two thirds went beside the matrix product, into the choice of the largest.

Shapes: Q queries, N database rows, D dimensions, K neighbours, W that are found (K and a few more), M rows of a piece,
cut into groups of G, P pairs of a query and a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from massl_bench.core.arrays import pieces
from massl_bench.core.devices import free_memory
from massl_bench.learners.cosines import LARGEST_CROWD, resolution_of, straddling

_COPIED_BYTES = 1 << 26
"""Rows that are on their way to the device at a time."""

_DATABASE_BYTES = 1 << 32
"""A larger database is normalised and searched in pieces of this size, or smaller ones where memory is short."""

_SIMILARITY_BYTES = 1 << 31
"""Similarities that are written out at a time, likewise."""

_SETTLED = 1 << 26
"""Numbers in float64 that are multiplied at a time."""


@dataclass(frozen=True, eq=False)
class DeviceNeighbours:
    """The K nearest database rows of each query, by higher similarity, then by lower index; on a device."""

    similarities_QK: Tensor
    """float32."""
    indices_QK: Tensor
    """int64."""


def held_on(device: str, rows_ND: NDArray[np.float32] | Tensor) -> NDArray[np.float32] | Tensor:
    """Returns features on a device, float32, where they take less than a third of what is free there; as they were
    otherwise, to be read piece by piece.

    Args:
        device: `cpu` or `cuda:i`.
        rows_ND: float32; may be memory-mapped.
    """
    if isinstance(rows_ND, Tensor) and rows_ND.device == torch.device(device):
        return rows_ND
    return _copied(rows_ND, device) if 3 * 4 * math.prod(rows_ND.shape) <= free_memory(device) else rows_ND


def nearest_on(
    device: str,
    queries_QD: NDArray[np.float32] | Tensor,
    database_ND: NDArray[np.float32] | Tensor,
    k: int,
    *,
    spare: int,
    boundaries: Sequence[int] = (),
) -> DeviceNeighbours:
    """Returns the k database rows of largest cosine similarity for every query; the arguments fit each other.

    Args:
        device: `cuda:i`; `cpu` to see that it is right.
        queries_QD: float32, finite.
        database_ND: float32, finite; of what is not on the device, pieces are copied there as they are needed.
        k: between 1 and N.
        spare: neighbours that are found beyond those.
        boundaries: smaller numbers of neighbours whose sets must be exact as well.
    """
    rows = _Vectors(held_on(device, queries_QD), held_on(device, database_ND), device)
    wanted = min(k + spare, len(database_ND))
    with _products_in_float32():
        similarities_QW, indices_QW = _found(rows, wanted)
        return _settled(similarities_QW, indices_QW, rows, (*boundaries, k))


@contextmanager
def _products_in_float32() -> Iterator[None]:
    """TF32 would change the order of near neighbours."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _copied(rows_ND: NDArray[np.float32] | Tensor, device: str) -> Tensor:
    """Copies rows to a device, through memory that it reads by itself."""
    if isinstance(rows_ND, Tensor):
        return rows_ND.to(device, torch.float32)
    copied_ND = torch.empty(rows_ND.shape, device=device)
    if not rows_ND.size:
        return copied_ND
    at_once = max(1, min(len(rows_ND), _COPIED_BYTES // (4 * rows_ND.shape[1])))
    on_gpu = copied_ND.is_cuda
    waiting = [torch.empty(at_once, rows_ND.shape[1], pin_memory=on_gpu) for _ in range(2 if on_gpu else 1)]
    done: list[torch.cuda.Event | None] = [None] * len(waiting)
    for number, (chosen, rows_nD) in enumerate(pieces(rows_ND, at_once)):
        place = number % len(waiting)
        if (event := done[place]) is not None:
            event.synchronize()
        in_use_nD = waiting[place][: len(rows_nD)]
        in_use_nD.numpy()[:] = rows_nD
        copied_ND[chosen].copy_(in_use_nD, non_blocking=True)
        if on_gpu:
            done[place] = torch.cuda.current_stream(copied_ND.device).record_event()
    if on_gpu:  # before the memory is given to something else
        torch.cuda.current_stream(copied_ND.device).synchronize()
    return copied_ND


@dataclass(frozen=True, eq=False)
class _Vectors:
    """The features of a search, as they were given; on the device, or where they are read from."""

    queries_QD: NDArray[np.float32] | Tensor
    database_ND: NDArray[np.float32] | Tensor
    device: str

    def unit(self, rows_ND: NDArray[np.float32] | Tensor, chosen: slice | list[int], length: int = 0) -> Tensor:
        """Returns some rows at unit norm, followed by zeros up to a length; rows of zeros stay zeros."""
        given_nD = rows_ND[chosen]
        rows_nD = given_nD if isinstance(given_nD, Tensor) else _copied(given_nD, self.device)
        unit_nD = rows_nD.new_zeros(length or len(rows_nD), rows_nD.shape[1])
        own_nD = unit_nD[: len(rows_nD)]
        own_nD.copy_(rows_nD)
        # Divided by the largest entry first, so that squares stay in range.
        for order in (torch.inf, 2):
            length_n1 = torch.linalg.vector_norm(own_nD, order, dim=1, keepdim=True)
            own_nD.div_(torch.where(length_n1 == 0, 1.0, length_n1))
        return unit_nD

    def cosines(self, query_P: Tensor, row_P: Tensor) -> Tensor:
        """Returns the cosines of pairs of a query and a database row, computed in float64."""
        cosine_P = torch.empty(len(query_P), dtype=torch.float64, device=query_P.device)
        at_once = max(1, _SETTLED // self.database_ND.shape[1])
        for start in range(0, len(query_P), at_once):
            piece = slice(start, start + at_once)
            left_PD = self._gathered(self.queries_QD, query_P[piece])
            right_PD = self._gathered(self.database_ND, row_P[piece])
            product_P, left_P, right_P = (
                (one * other).sum(1) for one, other in ((left_PD, right_PD), (left_PD, left_PD), (right_PD, right_PD))
            )
            lengths_P = left_P.sqrt() * right_P.sqrt()
            cosine_P[piece] = product_P / torch.where(lengths_P > 0, lengths_P, 1.0)
        return cosine_P

    def _gathered(self, rows_ND: NDArray[np.float32] | Tensor, index_P: Tensor) -> Tensor:
        if isinstance(rows_ND, Tensor):
            return rows_ND[index_P].double()
        return _copied(rows_ND[index_P.cpu().numpy()], self.device).double()


def _found(vectors: _Vectors, wanted: int) -> tuple[Tensor, Tensor]:
    """Returns the similarities [Q, W] in float32, largest first, and their rows; the choice among equals is open."""
    (num_rows, dims), num_queries = vectors.database_ND.shape, len(vectors.queries_QD)
    best: tuple[Tensor, Tensor] | None = None
    quarter = free_memory(vectors.device) // 4
    # Even pieces: no last one of a few rows.
    num_pieces = -(-num_rows // max(wanted, min(_DATABASE_BYTES, quarter) // (4 * dims)))
    edges = [num_rows * number // num_pieces for number in range(num_pieces + 1)]
    for first, end in pairwise(edges):
        group = _group_size(end - first, wanted)
        length = -(-(end - first) // group) * group
        unit_MD = vectors.unit(vectors.database_ND, slice(first, end), length)
        at_once = max(1, min(_SIMILARITY_BYTES, quarter) // (4 * length))
        at_once = at_once // 128 * 128 or at_once  # whole tiles of the product
        written = unit_MD.new_empty(min(at_once, num_queries), length)
        parts = []
        for start in range(0, max(1, num_queries), at_once):
            unit_qD = vectors.unit(vectors.queries_QD, slice(start, start + at_once))
            similarity_qM = torch.mm(unit_qD, unit_MD.T, out=written[: len(unit_qD)])
            similarity_qM[:, end - first :] = -torch.inf
            parts.append(_largest(similarity_qM, min(wanted, end - first), group))
        values_QW, rows_QW = (torch.cat(each) for each in zip(*parts, strict=True))
        rows_QW += first
        if best is not None:
            values_QW, rows_QW = torch.cat([best[0], values_QW], 1), torch.cat([best[1], rows_QW], 1)
            values_QW, place_QW = values_QW.topk(min(wanted, values_QW.shape[1]), dim=1)
            rows_QW = rows_QW.gather(1, place_QW)
        best = values_QW, rows_QW
    assert best is not None
    return best


def _group_size(num_rows: int, wanted: int) -> int:
    """Returns G, with about as many groups as rows in the groups that are looked into."""
    return max(1, math.isqrt(num_rows // max(1, wanted)))


def _largest(similarity_qM: Tensor, wanted: int, group: int) -> tuple[Tensor, Tensor]:
    """Returns the largest similarities of each query, in order, and their columns.

    They lie in the groups of the largest maxima, as many as are wanted: each other group has a maximum that so many
    others reach. So a row is read once, and sorted are only the maxima, and the members of the chosen groups. Members
    of a group lie M / G apart: the maxima are then found for neighbouring columns at a time.
    """
    if group == 1:
        found = similarity_qM.topk(wanted, dim=1)
        return found.values, found.indices
    grouped_qGm = similarity_qM.view(len(similarity_qM), group, -1)
    chosen_qW = grouped_qGm.amax(1).topk(wanted, dim=1, sorted=False).indices
    members_qGW = grouped_qGm.gather(2, chosen_qW[:, None].expand(-1, group, -1))
    found = members_qGW.flatten(1).topk(wanted, dim=1)
    of_group_qW = chosen_qW.gather(1, found.indices % wanted)
    return found.values, found.indices // wanted * grouped_qGm.shape[2] + of_group_qW


def _settled(
    similarities_QW: Tensor, indices_QW: Tensor, vectors: _Vectors, boundaries: Sequence[int]
) -> DeviceNeighbours:
    """Returns the first max(boundaries) neighbours, sets exact at every boundary, ordered by value, then index."""
    num_found, k, (num_rows, dims) = similarities_QW.shape[1], max(boundaries), vectors.database_ND.shape
    resolution = resolution_of(dims)
    unsure_QW = straddling(similarities_QW, boundaries, resolution)
    crowded_Q = torch.zeros_like(unsure_QW[:, 0])
    if num_found < num_rows:
        crowded_Q = similarities_QW[:, k - 1] - similarities_QW[:, -1] <= resolution
        _settle_crowds(similarities_QW, indices_QW, crowded_Q.nonzero()[:, 0], vectors, (k, resolution))
        unsure_QW &= ~crowded_Q[:, None]
    values_QW = similarities_QW.double()
    query_P, place_P = unsure_QW.nonzero().unbind(1)
    values_QW[query_P, place_P] = vectors.cosines(query_P, indices_QW[query_P, place_P])

    equal_Q = (similarities_QW[:, 1:] == similarities_QW[:, :-1]).any(1)
    disorder_q = ((unsure_QW.any(1) | equal_Q) & ~crowded_Q).nonzero()[:, 0]  # crowds are in order already
    by_index_qW = indices_QW[disorder_q].argsort(dim=1)
    ordered_qW = values_QW[disorder_q].gather(1, by_index_qW)
    order_qW = by_index_qW.gather(1, ordered_qW.argsort(dim=1, descending=True, stable=True))
    indices_QW[disorder_q] = indices_QW[disorder_q].gather(1, order_qW)
    similarities_QW[disorder_q] = values_QW[disorder_q].gather(1, order_qW).float()
    return DeviceNeighbours(similarities_QW[:, :k], indices_QW[:, :k])


def _settle_crowds(
    similarities_QW: Tensor,
    indices_QW: Tensor,
    crowded_q: Tensor,
    vectors: _Vectors,
    limits: tuple[int, float],
) -> None:
    """Replaces, in place, the first k neighbours of queries around whose k-th place lie more rows than were found.

    Args:
        similarities_QW: of what was found.
        indices_QW: its rows.
        crowded_q: which queries.
        vectors: the features.
        limits: (k, resolution).
    """
    k, resolution = limits
    num_rows, dims = vectors.database_ND.shape
    at_once, row_chunk = max(1, _SIMILARITY_BYTES // (4 * num_rows)), max(1, _DATABASE_BYTES // (4 * dims))
    for crowd_q in torch.split(crowded_q, at_once) if len(crowded_q) else ():
        unit_qD = vectors.unit(vectors.queries_QD, crowd_q.tolist())
        similarity_qN = unit_qD.new_empty(len(crowd_q), num_rows)
        for first in range(0, num_rows, row_chunk):
            rows = slice(first, first + row_chunk)
            similarity_qN[:, rows] = unit_qD @ vectors.unit(vectors.database_ND, rows).T
        for query, similarity_N in zip(crowd_q, similarity_qN, strict=True):
            candidate_M = (similarity_N >= similarity_N.topk(k).values[-1] - resolution).nonzero()[:, 0]
            if len(candidate_M) <= LARGEST_CROWD:
                value_M = vectors.cosines(query.expand(len(candidate_M)), candidate_M)
            else:  # copies of one item, whose similarities are equal in float32 too
                value_M = similarity_N[candidate_M].double()
            order = value_M.argsort(descending=True, stable=True)[:k]
            indices_QW[query, :k] = candidate_M[order]
            similarities_QW[query, :k] = value_M[order].float()
