"""Features in their principal axes. Shapes: N rows, n rows of a piece, D dimensions, R axes (at most D)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from massl_bench.core.arrays import Stacked, in_file, let_go
from massl_bench.core.devices import free_memory, memory_share
from massl_bench.core.errors import CellError
from massl_bench.learners.fit_memory import ROWS, is_small, num_kept

_SMALLEST_EIGENVALUE = 1e-10
"""Axes of less variance, relative to the largest, hold nothing but the rounding of float32."""


@dataclass(frozen=True, eq=False)
class Axes:
    """Standardisation and rotation to the principal axes of the items that it was made from."""

    mean_D: Tensor
    inverse_std_D: Tensor
    """0 for constant dimensions."""
    rotation_DR: Tensor
    variance_R: Tensor
    """Largest first."""

    def standardised(self, rows_nD: Tensor) -> Tensor:
        """Returns the rows without the mean, over the standard deviation."""
        return (rows_nD - self.mean_D) * self.inverse_std_D

    def project(self, rows_nD: Tensor) -> Tensor:
        """Returns the coordinates of the rows, float32 [n, R]."""
        return self.standardised(rows_nD) @ self.rotation_DR


@dataclass(frozen=True, eq=False)
class Rows:
    """All rows of an array of features, or some, read a few at a time."""

    features_ND: NDArray[np.float32] | Stacked
    rows_n: NDArray[np.int64] | None = None
    """Which of them; None for all."""
    device: str = "cpu"
    """Where they are read to."""
    there_nD: Tensor | None = None
    """All of them, where they are on the device already."""

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.features_ND) if self.rows_n is None else len(self.rows_n)

    def read(self, start: int, stop: int) -> Tensor:
        """Returns rows [n, D] on the device."""
        if self.there_nD is not None:
            return self.there_nD[start:stop]
        chosen = slice(start, stop) if self.rows_n is None else self.rows_n[start:stop]
        # A copy: a bank may be memory-mapped and read-only, which torch would warn of.
        rows = torch.from_numpy(np.array(self.features_ND[chosen], dtype=np.float32)).to(self.device)
        let_go(self.features_ND)
        return rows

    def pieces(self) -> Iterator[Tensor]:
        """Yields all rows, some at a time."""
        for start in range(0, len(self), ROWS):
            yield self.read(start, min(start + ROWS, len(self)))


class Coordinates:
    """Rows in principal axes, as many as memory should hold; those of the rest are computed whenever they are read.

    Memory has room for what one computation may hold (`memory_share`), a GPU for what it has beside `others` bytes.
    Rows are always computed in the same blocks: what is held has no influence on a number.
    """

    def __init__(self, axes: Axes, rows: Rows, others: int = 0) -> None:
        self._axes, self._rows = axes, rows
        rank = axes.rotation_DR.shape[1]
        held, (num_all, dim) = len(rows), rows.features_ND.shape
        if rows.device != "cpu":
            held = max(0, free_memory(rows.device) - others) // (4 * rank)
        elif not is_small(num_all, dim):
            kept = num_kept(len(rows), num_all, dim, in_file=in_file(rows.features_ND))
            held = min(kept, memory_share() // (4 * rank))
        if held < len(rows):
            held -= held % ROWS
        self._held_MR = torch.empty((min(held, len(rows)), rank), device=rows.device)
        for start in range(0, len(self._held_MR), ROWS):
            self._held_MR[start : start + ROWS] = self._computed(start)
        self._rows = replace(rows, there_nD=None)
        self._block = -1, torch.empty(0)

    @property
    def rank(self) -> int:
        """R."""
        return int(self._held_MR.shape[1])

    def __len__(self) -> int:
        """Returns N."""
        return len(self._rows)

    def _computed(self, start: int) -> Tensor:
        return self._axes.project(self._rows.read(start, min(start + ROWS, len(self._rows))))

    def _block_at(self, start: int) -> Tensor:
        """Returns the coordinates of a block of rows; the last one that was computed is kept, for the next piece."""
        if start < len(self._held_MR):
            return self._held_MR[start : start + ROWS]
        if self._block[0] != start:
            self._block = start, self._computed(start)
        return self._block[1]

    def read(self, start: int, stop: int) -> Tensor:
        """Returns the coordinates of rows, float32 [n, R]."""
        if stop <= len(self._held_MR):
            return self._held_MR[start:stop]
        blocks = range(start - start % ROWS, stop, ROWS)
        parts = [self._block_at(first)[max(start - first, 0) : stop - first] for first in blocks]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def pieces(self, count: int) -> Iterator[tuple[slice, Tensor]]:
        """Yields (which rows, their coordinates), `count` at a time."""
        for start in range(0, len(self), count):
            stop = min(start + count, len(self))
            yield slice(start, stop), self.read(start, stop)


def principal_axes(rows: Rows) -> Axes:
    """Returns the standardisation (per dimension; constant ones become 0) and the principal axes of rows.

    Raises:
        CellError: Every dimension is constant.
    """
    count, dims, on = len(rows), rows.features_ND.shape[1], torch.device(rows.device)
    total_D = torch.zeros(dims, dtype=torch.float64, device=on)
    low_D, high_D = torch.full((dims,), torch.inf, device=on), torch.full((dims,), -torch.inf, device=on)
    for rows_nD in rows.pieces():
        total_D += rows_nD.sum(0, dtype=torch.float64)
        low_D, high_D = torch.minimum(low_D, rows_nD.amin(0)), torch.maximum(high_D, rows_nD.amax(0))
    mean_D = (total_D / count).float()
    squares_D = torch.zeros_like(total_D)
    for rows_nD in rows.pieces():
        squares_D += ((rows_nD - mean_D).double() ** 2).sum(0)
    varies_D = high_D > low_D
    if not varies_D.any():
        raise CellError(
            f"all {dims} feature dimensions are constant over the {count} training images: the model gives every image "
            "the same features; check its weights and its preprocessing"
        )
    std_D = torch.where(varies_D, (squares_D / count).sqrt(), 1.0)
    inverse_std_D = torch.where(varies_D, 1 / std_D, 0.0).float()
    axes = Axes(mean_D, inverse_std_D, torch.empty(0), torch.empty(0))
    if count >= dims:
        covariance_DD = torch.zeros((dims, dims), dtype=torch.float64, device=on)
        for rows_nD in rows.pieces():
            chunk_nD = axes.standardised(rows_nD).double()
            covariance_DD.addmm_(chunk_nD.T, chunk_nD)
        variance_R, rotation_DR = torch.linalg.eigh(covariance_DD / count)
    else:
        # Fewer items than dimensions: the solution lies in the span of the items.
        items_ND = torch.cat([axes.standardised(rows_nD) for rows_nD in rows.pieces()]).double()
        variance_R, items_NR = torch.linalg.eigh(items_ND @ items_ND.T / count)
        rotation_DR = items_ND.T @ (items_NR / (count * variance_R.clamp(min=1e-300)).sqrt())
    keep = (variance_R > _SMALLEST_EIGENVALUE * variance_R[-1]).nonzero()[:, 0].flip(0)
    return Axes(mean_D, inverse_std_D, rotation_DR[:, keep].float(), variance_R[keep].float())
