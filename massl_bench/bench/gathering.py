"""What becomes of the cells of one request that several processes carry out: heard from each, told once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from massl_bench.bench.planned import MissingCell, PlannedCell
from massl_bench.bench.planner import Planner
from massl_bench.bench.runner import Outcome

_Cell = tuple[str, str, str]
"""Task, dataset and model."""


class Gathered:
    """What is known of the cells.

    Attributes:
        open: the cells of which nothing final is known.
    """

    def __init__(self, cells: Sequence[PlannedCell], planner: Planner) -> None:
        self.open: set[_Cell] = set()
        self._held: dict[_Cell, Outcome] = {}
        for cell in cells:
            name = cell.task.spec.name, cell.dataset_reference, cell.model_name
            path, record = planner.finished(cell) if not isinstance(cell, MissingCell) else (None, None)
            if record is None:
                self.open.add(name)
            else:
                self._held[name] = _outcome(name, status="finished", path=path, record=record)

    @property
    def lost(self) -> list[_Cell]:
        """The cells of which no process said anything."""
        return sorted(self.open - set(self._held))

    def take(self, outcome: Outcome) -> Iterator[Outcome]:
        """Yields an outcome that is final; where a cell failed in one process, it may yet be done by another."""
        cell = outcome.task, outcome.dataset, outcome.model
        if cell not in self.open or outcome.status == "elsewhere":
            return
        if outcome.status == "done":
            self.open.discard(cell)
            self._held.pop(cell, None)
            yield outcome
        elif outcome.status == "finished":  # by a process whose word was not heard, or not yet
            self._held[cell] = replace(outcome, status="done")
        else:
            self._held.setdefault(cell, outcome)

    def rest(self, problem: str | None = None) -> Iterator[Outcome]:
        """Yields what was finished before, and what is left when all processes have ended, and why it is."""
        why = problem or "the process that measured it died (out of memory? fewer processes need less)"
        for cell in sorted(self.open | set(self._held)):
            yield self._held.get(cell, _outcome(cell, status="failed", error=why))


def _outcome(cell: _Cell, **known: Any) -> Outcome:
    task, dataset, model = cell
    return Outcome(task=task, dataset=dataset, model=model, **known)
