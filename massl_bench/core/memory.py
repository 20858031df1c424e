"""What a computation holds beside its features, known before it starts. All in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How large the data of a cell are."""

    num_items: Mapping[str, int]
    """By role."""
    dim: int
    """D."""
    num_classes: int
    """C."""
    several_labels: bool
    """Whether an item has several labels."""
    device: str
    """Where heads are trained."""
    in_files: bool
    """Whether the features are read from files, and not held in memory."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a computation holds beside its features."""

    host: int
    """It cannot do with less."""
    device: int = 0
    """The same of a GPU."""
    more_host: int = 0
    """What it holds beyond that where there is room, to be faster."""
    more_device: int = 0
