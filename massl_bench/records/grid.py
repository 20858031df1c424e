"""A leaderboard as rows and columns of shown values, whatever format they are then written in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from massl_bench.metrics.direction import less_is_better, with_arrow
from massl_bench.records.columns import column_ranks, copies, shown_names
from massl_bench.records.outcomes import OutcomesOf
from massl_bench.records.rows import Leaderboard, Row

_SKEWED = 0.25
"""Part of an interval's half width by which its middle may miss the value and still be shown as `value ± half`."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One value, as people see it: fractions in percent."""

    value: float
    interval: tuple[float, float] | None
    best: bool = False
    """Of the best group of its column: no other model is significantly better."""

    @property
    def half_width(self) -> float | None:
        """Half the width of a symmetric interval; None where there is none, or it lies elsewhere than the value."""
        if self.interval is None:
            return None
        low, high = self.interval
        half = (high - low) / 2
        return half if abs((low + high) / 2 - self.value) <= _SKEWED * half else None

    def text(self) -> str:
        """Returns `95.78 ± 1.90`, `0.05 [0.00, 1.47]` where the interval is not symmetric, or the value alone."""
        if self.interval is None:
            return f"{self.value:.2f}"
        if self.half_width is not None:
            return f"{self.value:.2f} ± {self.half_width:.2f}"
        return f"{self.value:.2f} [{self.interval[0]:.2f}, {self.interval[1]:.2f}]"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One cell of the benchmark."""

    task: str
    dataset: str
    metrics: tuple[str, ...]
    """What is shown of it; several where records of one task show different metrics."""

    @property
    def title(self) -> str:
        """Task, dataset and metrics."""
        return " ".join((self.task, self.dataset, *map(with_arrow, self.metrics)))


@dataclass(frozen=True, kw_only=True)
class Line:
    """One model."""

    model: str
    """Its name; with the beginning of its hash where two models have one name."""
    values: tuple[Shown | None, ...]
    """By column."""
    mean: float | None = None
    """Of the fractions of a suite, in percent; None where one is missing, or there is no suite."""
    num_averaged: tuple[int, int] = (0, 0)
    """(cells that are there, cells that the mean is over)"""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One line a model, one column a cell."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    suite: str | None
    not_averaged: tuple[tuple[str, str], ...]
    """Columns that the mean leaves out: ranks, exponents and errors have no place among fractions that should grow."""
    different: tuple[tuple[tuple[str, str], Mapping[str, Sequence[str]]], ...]
    """Columns whose records were measured on different copies of the data, with the models by fingerprint."""

    @property
    def shows(self) -> frozenset[str]:
        """Which kinds of interval are there: `half` (±) and `ends` ([low, high])."""
        values = [value for line in self.lines for value in line.values if value is not None]
        return frozenset("half" if v.half_width is not None else "ends" for v in values if v.interval is not None)


def grid(board: Leaderboard) -> Grid:
    """Returns the values of a leaderboard by model and cell, the best group of each column of several models marked."""
    # One line for each model, under the name of its latest record.
    latest = {row.model: row for row in sorted(board.rows, key=lambda row: row.record.created_at)}
    names = shown_names(latest)
    models = sorted(names, key=lambda model: (latest[model].name, model))
    values = {(row.model, row.cell): row for row in board.rows}
    columns = {cell: [row for row in board.rows if row.cell == cell] for cell in board.cells}
    outcomes = OutcomesOf()
    best = {cell: _best(rows, outcomes) for cell, rows in columns.items()}
    other = {row.cell for row in board.rows if row.record.headline_scale != 100 or less_is_better(row.metric)}
    not_averaged = tuple(cell for cell in board.cells if cell in other and board.suite is not None)
    averaged = [cell for cell in board.cells if cell not in not_averaged]
    lines = []
    for model in models:
        present = [values[model, cell].shown.value for cell in averaged if (model, cell) in values]
        complete = board.suite is not None and len(present) == len(averaged) > 0
        lines.append(
            Line(
                model=names[model],
                values=tuple(_shown(values.get((model, cell)), best[cell]) for cell in board.cells),
                mean=100 * sum(present) / len(present) if complete else None,
                num_averaged=(len(present), len(averaged)),
            )
        )
    return Grid(
        columns=tuple(_column(cell, rows) for cell, rows in columns.items()),
        lines=tuple(lines),
        suite=board.suite,
        not_averaged=not_averaged,
        different=tuple((cell, found) for cell, rows in columns.items() if len(found := copies(rows)) > 1),
    )


def _column(cell: tuple[str, str], rows: Sequence[Row]) -> Column:
    return Column(task=cell[0], dataset=cell[1], metrics=tuple(sorted({row.metric for row in rows})))


def _best(rows: Sequence[Row], outcomes: OutcomesOf) -> frozenset[str]:
    """Returns the models of the best group of a column of several."""
    ranks = column_ranks(rows, outcomes) if len(rows) > 1 else None
    return frozenset(model for model, rank in ranks.rank_of.items() if rank == 1) if ranks is not None else frozenset()


def _shown(row: Row | None, best: frozenset[str]) -> Shown | None:
    if row is None:
        return None
    metric, scale = row.shown, row.record.headline_scale
    interval = (scale * metric.ci95[0], scale * metric.ci95[1]) if metric.ci95 is not None else None
    return Shown(value=scale * metric.value, interval=interval, best=row.model in best)
