"""How far a computation is, for whoever watches it: what computes stays pure, and may be asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a computation is."""

    done: int
    total: int
    unit: str
    """What is counted, with what became of it: `strengths solved`."""
    share: float | None = None
    """Of the work that is done, where its parts differ; None where they are alike."""
    at_least: bool = False
    """Whether the share may be larger: nobody knows beforehand how much work there is, only how much at most."""

    def __str__(self) -> str:
        """Returns what is counted."""
        return f"{self.done:,}/{self.total:,} {self.unit}"

    @property
    def part(self) -> float:
        """The share of the work that is done."""
        return self.done / self.total if self.share is None else self.share


Report = Callable[[Callable[[], Progress]], None]
"""Takes what tells the progress, and asks it when it wants to know: it may be called as often as one likes."""


def report_nothing(_told: Callable[[], Progress]) -> None:
    """Asks nothing."""
