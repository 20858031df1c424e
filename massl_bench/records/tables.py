"""The formats of a leaderboard: Markdown for people; csv and JSON, one line a record, for machines."""

from __future__ import annotations

from typing import Any

import pandas as pd

from massl_bench.records.rows import Leaderboard, Row


def _long(board: Leaderboard) -> list[dict[str, Any]]:
    """Returns one flat dictionary for each record, values as fractions."""
    lines = []
    for row in board.rows:
        identity, headline = row.record.identity, row.shown
        low, high = headline.ci95 or (None, None)
        lines.append(
            {
                "model": identity.model.name,
                "architecture": identity.model.architecture,
                "task": identity.task.name,
                "version": identity.task.version,
                "dataset": identity.dataset.name,
                "metric": row.metric,
                "value": headline.value,
                "ci95_low": low,
                "ci95_high": high,
                "std": headline.std,
                "weights_sha256": identity.model.weights_sha256,
                "dataset_fingerprint": identity.dataset.fingerprint,
                "created_at": row.record.created_at,
                "record": row.path.as_posix(),
            }
        )
    return lines


_COLUMNS = [
    "model", "architecture", "task", "version", "dataset", "metric", "value", "ci95_low", "ci95_high", "std",
    "weights_sha256", "dataset_fingerprint", "created_at", "record",
]  # fmt: skip


def to_csv(board: Leaderboard) -> str:
    """Returns one line a record, values as fractions at full precision."""
    return pd.DataFrame(_long(board), columns=_COLUMNS).to_csv(index=False)


def to_json(board: Leaderboard) -> dict[str, Any]:
    """Returns the records that enter, and those that do not with the reason."""
    return {
        "suite": board.suite,
        "rows": _long(board),
        "apart": [{"record": path.as_posix(), "reason": reason} for path, reason in board.apart],
    }


def to_markdown(board: Leaderboard) -> str:
    """Returns a table with one row a model and one column a cell, in percent, with half the 95 % interval's width.

    The best value of a column is bold where there is more than one, all measured on the same data. With a suite, a last
    column has the mean of its fractions; it is empty, with the count of cells, where one is missing. Datasets of which
    the rows saw different copies, and what does not enter, are listed below.
    """
    if board.rows:
        legend = "±: half the width of the 95 % interval."
        if without := ", ".join(" ".join(cell) for cell in _not_averaged(board)):
            legend += f" The mean leaves out what is no fraction: {without}."
        parts = [_wide(board), legend]
    else:
        parts = ["No complete record of a current task version yet."]
    return "\n\n".join([*parts, *_different_data(board), *_apart(board)]) + "\n"


def _wide(board: Leaderboard) -> str:
    # One line for each model, under the name of its latest record.
    latest = sorted(board.rows, key=lambda row: row.record.created_at)
    names = {row.model: row.record.identity.model.name for row in latest}
    models = sorted(names, key=lambda model: (names[model], model))
    titles = {}
    for task, dataset in board.cells:
        metrics = {row.metric for row in board.rows if row.cell == (task, dataset)}
        titles[task, dataset] = " ".join([f"{task} {dataset}", *sorted(metrics)])
    values = {(row.model, row.cell): row for row in board.rows}
    mixed = _mixed(board)
    best = {cell: max((r.shown.value for r in board.rows if r.cell == cell), default=None) for cell in board.cells}
    left_out = _not_averaged(board)
    averaged = [cell for cell in board.cells if cell not in left_out]
    counts = {cell: sum(row.cell == cell for row in board.rows) for cell in board.cells}
    lines = []
    for model in models:
        # Two models under one name are told apart by their hash; eight characters of `features …` are the word.
        shared = list(names.values()).count(names[model]) > 1
        line = {"model": f"{names[model]} ({model[:8]})" if shared else names[model]}
        for cell in board.cells:
            row = values.get((model, cell))
            text = _shown(row) if row is not None else "–"
            bold = row is not None and counts[cell] > 1 and cell not in mixed and row.shown.value == best[cell]
            line[titles[cell]] = f"**{text}**" if bold else text
        if board.suite is not None:
            present = [values[model, cell].shown.value for cell in averaged if (model, cell) in values]
            complete = len(present) == len(averaged) > 0
            mean = f"{100 * sum(present) / len(present):.2f}" if complete else "–"
            line[f"mean ({board.suite})"] = f"{mean} ({len(present)}/{len(averaged)})"
        lines.append(line)
    align = ("left", *["right"] * (len(lines[0]) - 1))
    table: str = pd.DataFrame(lines).to_markdown(index=False, colalign=align, disable_numparse=True)
    return table


def _not_averaged(board: Leaderboard) -> list[tuple[str, str]]:
    """Returns the columns that a suite's mean leaves out: a rank or an exponent has no place among fractions."""
    other = {row.cell for row in board.rows if row.record.headline_scale != 100}
    return [cell for cell in board.cells if cell in other] if board.suite is not None else []


def _shown(row: Row) -> str:
    headline, scale = row.shown, row.record.headline_scale
    value = f"{scale * headline.value:.2f}"
    if headline.ci95 is None:
        return value
    low, high = headline.ci95
    return f"{value} ± {scale * (high - low) / 2:.2f}"


def _copies(board: Leaderboard, cell: tuple[str, str]) -> dict[str, list[str]]:
    """Returns the models of a column by the fingerprint of their data, which is unknown for handed-in features."""
    models: dict[str, list[str]] = {}
    for identity in (row.record.identity for row in board.rows if row.cell == cell):
        if identity.model.weights_hash_of != "features":
            models.setdefault(identity.dataset.fingerprint, []).append(identity.model.name)
    return models


def _mixed(board: Leaderboard) -> list[tuple[str, str]]:
    """Returns the columns whose records were measured on different copies of the dataset."""
    return [cell for cell in board.cells if len(_copies(board, cell)) > 1]


def _different_data(board: Leaderboard) -> list[str]:
    lines = []
    for cell in _mixed(board):
        copies = "; ".join(f"{copy[:8]} ({', '.join(names)})" for copy, names in _copies(board, cell).items())
        lines.append(f"- {' '.join(cell)}: {copies}")
    return ["Measured on different copies of the data, by fingerprint:", "\n".join(lines)] if lines else []


def _apart(board: Leaderboard) -> list[str]:
    if not board.apart:
        return []
    lines = [f"- {path.as_posix()}: {reason}" for path, reason in board.apart]
    return ["Not in the table:", "\n".join(lines)]
