"""What every layout of a dataset answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from massl_bench.core.values import GroundTruth
from massl_bench.datasets.left_out import LeftOut
from massl_bench.datasets.splits import ImageSplit


@dataclass(frozen=True)
class Layout(ABC):
    """A dataset that was found in a directory."""

    kind: str
    root: Path

    @abstractmethod
    def files(self) -> list[Path]:
        """Returns every file that the dataset is read from, in a fixed order."""

    @abstractmethod
    def read(self, source: str) -> ImageSplit:
        """Returns one split, by the name it has in this source."""

    def left_out(self) -> LeftOut:
        """Returns what looks like data in the dataset's place and is not taken; nothing where lists say what is."""
        return LeftOut()

    def ground_truth(self) -> GroundTruth | None:
        """Returns what the queries should find, or None where the layout does not say it."""
        return None

    def shared_files(self, sources: Sequence[str]) -> list[Path]:
        """Returns the files of a split that other datasets have as well; none where it is this dataset's alone."""
        return []

    def head_classes(self) -> Sequence[Sequence[int]] | None:
        """Returns, for each class of a test set, its classes of the head that it tests; None: nothing is said."""
        return None

    def reading(self) -> dict[str, Any]:
        """Returns what decides, beyond the files, which items a split has; a part of the fingerprint."""
        return {}

    def label_problem(self) -> str | None:
        """Returns why there are no labels, where that can be known without the images; None where there are."""
        return None

    def holds(self, sources: Sequence[str]) -> bool:
        """Tells whether an optional split is there, by the names that it has in this source."""
        return True
