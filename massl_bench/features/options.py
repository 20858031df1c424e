"""How features are extracted."""

from __future__ import annotations

from dataclasses import dataclass

from massl_bench.core.settings import Precision


@dataclass(frozen=True, kw_only=True)
class ExtractionOptions:
    """Only `precision` can change a feature (and is a part of its key); the rest is about speed and damaged images."""

    precision: Precision = "fp32"
    batch_size: int | None = None
    """Images at a time; None: 32 on the CPU, 256 on a GPU."""
    num_workers: int | None = None
    """Worker processes; None: none on the CPU, one a core on a GPU."""
    skip_corrupt: bool = False
