"""Which records are compared: those of the models that a user names, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from massl_bench.core.errors import RequestError, unknown_name
from massl_bench.metrics.direction import with_arrow
from massl_bench.records.columns import with_hash
from massl_bench.records.comparison import Comparison, Refusal, p_text, verdict
from massl_bench.records.reading import read_record
from massl_bench.records.rows import Leaderboard, Row


def pairs_of(
    models: Sequence[str], board: Leaderboard, *, task: str | None = None, dataset: str | None = None
) -> list[tuple[Row, Row]]:
    """Returns the first model's record and another one's, for each cell and each other model.

    Args:
        models: as a table names them, or files of records, whatever keeps those out of tables.
        board: the records.
        task: only its cells.
        dataset: likewise.

    Raises:
        RequestError: Fewer than two models, an unknown one, the name of several weights, or no cell of two of them.
    """
    if len(set(models)) < 2:
        raise RequestError(f"compare {' '.join(models)}: expected two models or more")
    wanted = [row for row in board.rows if task in (None, row.cell[0]) and dataset in (None, row.cell[1])]
    first, *others = (_of_model(name, wanted) for name in dict.fromkeys(models))
    pairs = [(first[cell], other[cell]) for cell in first for other in others if cell in other]
    if not pairs:
        raise RequestError(f"no cell is measured of {models[0]} and of one of {', '.join(models[1:])}")
    return pairs


def _of_model(name: str, rows: Sequence[Row]) -> dict[tuple[str, str], Row]:
    if name.endswith(".json"):
        record = read_record(Path(name))
        row = Row(path=Path(name), record=record, metric=record.identity.task.headline, file=Path(name))
        return {row.cell: row}
    own = [row for row in rows if name in (row.name, _distinct(row))]
    if not own:
        known = {row.name for row in rows}
        raise unknown_name("model", name, known, "models with a current, complete record of these cells")
    if len({row.model for row in own}) > 1:
        which = ", ".join(sorted({repr(_distinct(row)) for row in own}))
        raise RequestError(f"{name}: is the name of several weights; say which: {which}")
    return {row.cell: row for row in own}


def _distinct(row: Row) -> str:
    """Returns the name as tables show it where two models share it."""
    return with_hash(row.name, row.model)


def comparison_texts(one: Comparison) -> dict[str, str]:
    """Returns a comparison as people read it, whatever is then made of the texts; what is not there is empty."""
    scale = one.first.record.headline_scale
    return {
        "cell": f"{' '.join(one.first.cell)} {with_arrow(one.first.metric)}",
        "model": one.second.name,
        "first": f"{scale * one.first.shown.value:.2f}",
        "second": f"{scale * one.second.shown.value:.2f}",
        "difference": f"{scale * one.difference:+z.2f}",
        "interval": f"[{scale * one.ci95[0]:+z.2f}, {scale * one.ci95[1]:+z.2f}]" if one.ci95 is not None else "",
        "counts": f"{one.better} : {one.worse}" if one.better is not None else "",
        "p": p_text(one),
        "verdict": verdict(one),
        "test": one.test,
        "note": one.note or "",
    }


_PLAIN = ("difference", "ci95", "better", "worse", "p_value", "different", "test", "note")


def plain_comparison(one: Comparison | Refusal) -> dict[str, Any]:
    """Returns what was compared and found, or why it was not, as plain values."""
    names = [row.name for row in (one.first, one.second)]
    whose = {"task": one.first.cell[0], "dataset": one.first.cell[1], "models": names}
    if isinstance(one, Refusal):
        return {**whose, "reason": one.reason}
    values = [one.first.shown.value, one.second.shown.value]
    return {**whose, "metric": one.first.metric, "values": values, **{key: getattr(one, key) for key in _PLAIN}}
