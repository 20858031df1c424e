"""A leaderboard in Markdown, for people: on a page, or in a terminal of any width."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tabulate import tabulate

from massl_bench.core.printable import printable
from massl_bench.metrics.direction import ARROW, less_is_better
from massl_bench.records.grid import Grid, Shown, grid
from massl_bench.records.rows import Leaderboard

_BETWEEN = 3
"""Characters between two columns: ` | `."""

_AROUND_TITLE = 2
"""Characters that a column is wider than its title, at least."""

_NARROWEST_MODEL = 12
"""To which a model's name is cut, in a terminal, before its table becomes a list."""


def to_markdown(board: Leaderboard, width: int | None = None) -> str:
    """Returns a table with one row a model and one column a cell, in percent, with the 95 % interval.

    The best value of a column is bold where there is more than one, all measured on the same data. With a suite, a last
    column has the mean of its fractions; it is empty, with the count of cells, where one is missing. Datasets of which
    the rows saw different copies, and what does not enter, are listed below. Names cannot break out of their places:
    what Markdown or HTML would take for its own is escaped.

    Args:
        board: the records.
        width: characters of a terminal's line; a wider table is written as several, below each other.
    """
    if board.rows:
        shown = grid(board)
        parts = [*_tables(shown, width), _legend(shown), *_different_data(shown)]
    else:
        parts = ["No complete record of a current task version yet."]
    return "\n\n".join([*parts, *_without_hash(board), *_apart(board)]) + "\n"


def escaped(text: str) -> str:
    """Returns a text of others for a place inside a line of Markdown: as it is, without any meaning of its own."""
    text = re.sub(r"[\\`*\[\]|~$]", r"\\\g<0>", printable(text))
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # between letters it is one of them
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"(?i)\b(https?|ftp|mailto|xmpp):", r"\1\\:", text)
    text = re.sub(r"(?i)\bwww\.", r"www\\.", text)
    text = re.sub(r"^(\d+)([.)])", r"\1\\\2", text)
    return re.sub(r"^[#+=-]", r"\\\g<0>", text)


def _tables(shown: Grid, width: int | None) -> Iterator[str]:
    titles = [escaped(column.title) for column in shown.columns]
    bodies = [[_cell(line.values[index]) for line in shown.lines] for index in range(len(shown.columns))]
    if shown.suite is not None:
        titles.append(f"mean ({escaped(shown.suite)})")
        bodies.append([_mean(line.mean, line.num_averaged) for line in shown.lines])
    models = [escaped(line.model) for line in shown.lines]
    if width is None:
        yield _table(models, titles, bodies)
        return
    widths = [_width(title, body) for title, body in zip(titles, bodies, strict=True)]
    room = max(width - max(widths) - _BETWEEN - 1, _NARROWEST_MODEL)
    models = [_cut(model, room) for model in models]
    left = _width("model", models) + 1
    if left + max(widths) > width:
        yield _list(models, titles, bodies)
        return
    for group in _groups(widths, width - left):
        yield _table(models, [titles[i] for i in group], [bodies[i] for i in group])


def _width(title: str, body: Sequence[str]) -> int:
    return max(len(title) + _AROUND_TITLE, *map(len, body)) + _BETWEEN


def _cell(value: Shown | None) -> str:
    if value is None:
        return "–"
    return f"**{value.text()}**" if value.best else value.text()


def _mean(mean: float | None, counts: tuple[int, int]) -> str:
    return f"{f'{mean:.2f}' if mean is not None else '–'} ({counts[0]}/{counts[1]})"


def _groups(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Yields the columns that stand beside each other in `room` characters, in order."""
    group: list[int] = []
    for index, width in enumerate(widths):
        if group and sum(widths[i] for i in group) + width > room:
            yield group
            group = []
        group.append(index)
    yield group


def _table(models: Sequence[str], titles: Sequence[str], bodies: Sequence[Sequence[str]]) -> str:
    align = ("left", *["right"] * len(titles))
    rows = list(zip(models, *bodies, strict=True))
    return tabulate(rows, ["model", *titles], tablefmt="pipe", colalign=align, disable_numparse=True)


def _list(models: Sequence[str], titles: Sequence[str], bodies: Sequence[Sequence[str]]) -> str:
    """Returns one line a value, for a terminal that is narrower than a model and one column."""
    lines = []
    for row, model in enumerate(models):
        lines.append(f"- {model}")
        lines += [f"  - {title}: {body[row]}" for title, body in zip(titles, bodies, strict=True)]
    return "\n".join(lines)


def _cut(text: str, width: int) -> str:
    half = (width - 1) // 2
    return text if len(text) <= width else f"{text[:half]}…{text[len(text) - (width - 1 - half) :]}"


def _legend(shown: Grid) -> str:
    texts = {
        "half": "±: half the width of the 95 % interval",
        "ends": "[low, high]: the 95 % interval, where it does not lie evenly around the value",
    }
    legend = "; ".join(text for kind, text in texts.items() if kind in shown.shows)
    sentences = [f"{legend}."] if legend else []
    if any(value is not None and value.best for line in shown.lines for value in line.values):
        sentences.append("Bold: the best group of a column, than which no other model is significantly better.")
    if shown.not_averaged:
        without = ", ".join(escaped(" ".join(cell)) for cell in shown.not_averaged)
        sentences.append(f"The mean leaves out what is no fraction that should grow: {without}.")
    if any(less_is_better(metric) for column in shown.columns for metric in column.metrics):
        sentences.append(f"{ARROW}: less is better.")
    return " ".join(sentences)


def _different_data(shown: Grid) -> list[str]:
    lines = []
    for cell, copies in shown.different:
        listed = "; ".join(f"{copy[:8]} ({', '.join(map(escaped, names))})" for copy, names in copies.items())
        lines.append(f"- {escaped(' '.join(cell))}: {listed}")
    return ["Measured on different copies of the data, by fingerprint:", "\n".join(lines)] if lines else []


def _without_hash(board: Leaderboard) -> list[str]:
    lines = [f"- {escaped(row.path.as_posix())}" for row in board.rows if row.record.content_sha256 is None]
    why = "Written before records carried a hash of their content, so that a changed number could not be seen:"
    return [why, "\n".join(lines)] if lines else []


def _apart(board: Leaderboard) -> list[str]:
    if not board.apart:
        return []
    lines = [f"- {escaped(path.as_posix())}: {escaped(reason)}" for path, reason in board.apart]
    return ["Not in the table:", "\n".join(lines)]
