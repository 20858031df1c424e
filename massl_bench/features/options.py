"""How features are extracted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from massl_bench.core.settings import Precision


@dataclass(frozen=True)
class Shard:
    """One of several processes that do the same work together."""

    index: int = 0
    """From 0."""
    count: int = 1
    here: int = 1
    """How many of them are on this machine, and share its cores and memory."""

    def first(self, numbers: Iterable[int]) -> list[int]:
        """Returns the numbers in the order in which this process takes them: its own share, then what others left."""
        return sorted(numbers, key=lambda number: (number % self.count != self.index, number))


@dataclass(frozen=True, kw_only=True)
class ExtractionOptions:
    """Only `precision` can change a feature (and is a part of its key); the rest is about speed and damaged images."""

    precision: Precision = "fp32"
    batch_size: int | None = None
    """Images at a time; None: 32 on the CPU, 256 on a GPU."""
    num_workers: int | None = None
    """Worker processes; None: none on the CPU, one a core on a GPU."""
    skip_corrupt: bool = False
    shard: Shard = Shard()
