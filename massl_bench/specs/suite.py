"""A suite: the cells that are the columns of one leaderboard."""

from __future__ import annotations

from pydantic import Field, model_validator

from massl_bench.core.strict import Listed, StrictModel


class SuiteCell(StrictModel):
    """One column of a suite."""

    task: str
    dataset: str
    headline: str | None = None
    """The metric that the column shows, where not the task's own headline; records are the task's all the same."""


class SuiteSpec(StrictModel):
    """An ordered list of cells: the columns of one leaderboard."""

    name: str
    summary: str
    cells: Listed[tuple[SuiteCell, ...]] = Field(min_length=1)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(task, dataset) of every cell, in order."""
        return [(cell.task, cell.dataset) for cell in self.cells]

    @property
    def headlines(self) -> dict[tuple[str, str], str]:
        """The metrics that the suite shows in place of a task's own headline, by (task, dataset)."""
        return {(cell.task, cell.dataset): cell.headline for cell in self.cells if cell.headline is not None}

    @model_validator(mode="after")
    def _no_cell_twice(self) -> SuiteSpec:
        pairs = self.pairs
        twice = [pair for number, pair in enumerate(pairs) if pair in pairs[:number]]
        if twice:
            raise ValueError(f"cells: {twice[0][0]} on {twice[0][1]} is listed twice: a column shows one metric")
        return self
