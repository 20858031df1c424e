"""A leaderboard as rows and columns of shown values, whatever format they are then written in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from massl_bench.records.comparison import OutcomesOf, column_p_values
from massl_bench.records.ranking import rank_column
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
        return " ".join((self.task, self.dataset, *self.metrics))


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
    """Columns that the mean leaves out: a rank or an exponent has no place among fractions."""

    @property
    def shows(self) -> frozenset[str]:
        """Which kinds of interval are there: `half` (±) and `ends` ([low, high])."""
        values = [value for line in self.lines for value in line.values if value is not None]
        return frozenset("half" if v.half_width is not None else "ends" for v in values if v.interval is not None)


def grid(board: Leaderboard) -> Grid:
    """Returns the values of a leaderboard by model and cell, the best group of each column marked (`ranking`).

    A column has one where there are several fractions, all measured on the same data: a larger rank or exponent is not
    better.
    """
    # One line for each model, under the name of its latest record.
    latest = sorted(board.rows, key=lambda row: row.record.created_at)
    names = {row.model: row.record.identity.model.name for row in latest}
    models = sorted(names, key=lambda model: (names[model], model))
    values = {(row.model, row.cell): row for row in board.rows}
    outcomes = OutcomesOf()
    best = {cell: _best(board, cell, outcomes) for cell in board.cells}
    other = {row.cell for row in board.rows if row.record.headline_scale != 100}
    not_averaged = tuple(cell for cell in board.cells if cell in other and board.suite is not None)
    averaged = [cell for cell in board.cells if cell not in not_averaged]
    lines = []
    for model in models:
        # Two models under one name are told apart by their hash; eight characters of `features …` are the word.
        shared = list(names.values()).count(names[model]) > 1
        present = [values[model, cell].shown.value for cell in averaged if (model, cell) in values]
        complete = board.suite is not None and len(present) == len(averaged) > 0
        lines.append(
            Line(
                model=f"{names[model]} ({model[:8]})" if shared else names[model],
                values=tuple(_shown(values.get((model, cell)), best[cell]) for cell in board.cells),
                mean=100 * sum(present) / len(present) if complete else None,
                num_averaged=(len(present), len(averaged)),
            )
        )
    columns = tuple(Column(task=cell[0], dataset=cell[1], metrics=_metrics(board, cell)) for cell in board.cells)
    return Grid(columns=columns, lines=tuple(lines), suite=board.suite, not_averaged=not_averaged)


def _metrics(board: Leaderboard, cell: tuple[str, str]) -> tuple[str, ...]:
    return tuple(sorted({row.metric for row in board.rows if row.cell == cell}))


def _best(board: Leaderboard, cell: tuple[str, str], outcomes: OutcomesOf) -> frozenset[str]:
    """Returns the models of the best group of a column; none where there is no such thing."""
    rows = [row for row in board.rows if row.cell == cell]
    comparable = (
        len(rows) > 1 and len(copies(board, cell)) < 2 and all(row.record.headline_scale == 100 for row in rows)
    )
    if not comparable:
        return frozenset()
    p_MM, paired = column_p_values(rows, outcomes)
    ranks = rank_column([row.model for row in rows], [row.shown.value for row in rows], p_MM, paired=paired)
    return frozenset(model for model, rank in ranks.rank_of.items() if rank == 1)


def _shown(row: Row | None, best: frozenset[str]) -> Shown | None:
    if row is None:
        return None
    metric, scale = row.shown, row.record.headline_scale
    interval = (scale * metric.ci95[0], scale * metric.ci95[1]) if metric.ci95 is not None else None
    return Shown(value=scale * metric.value, interval=interval, best=row.model in best)


def copies(board: Leaderboard, cell: tuple[str, str]) -> dict[str, list[str]]:
    """Returns the models of a column by the fingerprint of their data, which is unknown for handed-in features."""
    models: dict[str, list[str]] = {}
    for identity in (row.record.identity for row in board.rows if row.cell == cell):
        if identity.model.weights_hash_of != "features":
            models.setdefault(identity.dataset.fingerprint, []).append(identity.model.name)
    return models


def mixed(board: Leaderboard) -> Sequence[tuple[str, str]]:
    """Returns the columns whose records were measured on different copies of the dataset."""
    return [cell for cell in board.cells if len(copies(board, cell)) > 1]
