"""The scores of a task as a Python user sees them: a mapping that shows itself as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING

from massl_bench.core.values import Score

if TYPE_CHECKING:
    import pandas as pd


class TaskScores(Mapping[str, Score]):
    """Scores by metric name.

    Args:
        scores: by metric name.
        task: the name of the task.
        headline_name: the metric that a leaderboard shows of it.
        scale: what people see is a score times this.
        notes: what was assumed, left out or chosen in a way that a reader should know.
    """

    def __init__(
        self, scores: Mapping[str, Score], *, task: str, headline_name: str, scale: int, notes: tuple[str, ...] = ()
    ) -> None:
        self._scores = dict(scores)
        self.task = task
        self.headline_name = headline_name
        self.scale = scale
        self.notes = notes

    def __getitem__(self, name: str) -> Score:
        """Returns a score; the `KeyError` of a name that is not there says which are."""
        if name not in self._scores:
            raise KeyError(f"{name}: {self.task} measured {', '.join(self._scores)}")
        return self._scores[name]

    def __iter__(self) -> Iterator[str]:
        """Yields the metric names."""
        return iter(self._scores)

    def __len__(self) -> int:
        """Returns the number of metrics."""
        return len(self._scores)

    @property
    def headline(self) -> Score:
        """The score that a leaderboard shows."""
        return self._scores[self.headline_name]

    def to_frame(self) -> pd.DataFrame:
        """Returns a table: one row a metric, `value`, `low` and `high` of its 95 % interval, `std`; as fractions."""
        import pandas as pd

        rows = {
            name: {
                "value": score.value,
                "low": score.ci95[0] if score.ci95 else float("nan"),
                "high": score.ci95[1] if score.ci95 else float("nan"),
                "std": score.std if score.std is not None else float("nan"),
            }
            for name, score in self._scores.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis(self.task)

    def __repr__(self) -> str:
        """Returns the table as text, in the scale that people see."""
        from tabulate import tabulate

        rows = [
            [
                f"{name} *" if name == self.headline_name else name,
                f"{self.scale * score.value:.2f}",
                f"[{self.scale * score.ci95[0]:.2f}, {self.scale * score.ci95[1]:.2f}]" if score.ci95 else "",
            ]
            for name, score in self._scores.items()
        ]
        unit = " (%)" if self.scale == 100 else ""
        table = tabulate(rows, [self.task + unit, "value", "95 % interval"], disable_numparse=True)
        return "\n".join([table, *self.notes])

    def _repr_html_(self) -> str:
        """Returns the table for a notebook."""
        scaled = self.to_frame() * self.scale
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return scaled.to_html(float_format=lambda value: f"{value:.2f}", na_rep="") + notes
