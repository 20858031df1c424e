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
    work: tuple[float, float] | None = None
    """(what is done, what is left) in pieces that take about as long as each other; None where what is counted does."""
    at_most: bool = False
    """Whether less may be left: nobody knows beforehand how much work there is, only how much at most."""

    def __str__(self) -> str:
        """Returns what is counted."""
        return f"{self.done:,}/{self.total:,} {self.unit}"

    @property
    def pieces(self) -> tuple[float, float]:
        """The work that is done and that is left."""
        return (self.done, self.total - self.done) if self.work is None else self.work


Report = Callable[[Callable[[], Progress]], None]
"""Takes what tells the progress, and asks it when it wants to know: it may be called as often as one likes."""


def report_nothing(_told: Callable[[], Progress]) -> None:
    """Asks nothing."""
