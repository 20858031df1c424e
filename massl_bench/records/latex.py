"""A leaderboard for a paper: a `tabular` with booktabs' rules and siunitx's columns."""

from __future__ import annotations

from itertools import pairwise

from massl_bench.core.printable import printable
from massl_bench.metrics.direction import with_arrow
from massl_bench.records.grid import Grid, Shown, grid
from massl_bench.records.rows import Leaderboard

_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "–": "--", "±": r"\(\pm\)", "↓": r"\(\downarrow\)", "…": r"\dots{}",
}  # fmt: skip

_LIGATURES = frozenset(("--", "''", "``", ",,", "?`", "!`"))
"""Two characters of which LaTeX makes another one."""

_LAST_OF_T1 = 0x17F
"""The last letter that pdflatex's own encodings know; others are written as their code points."""

_HEAD = r"""% In the preamble: \usepackage[T1]{fontenc} \usepackage{booktabs} \usepackage{siunitx}
% \sisetup{detect-weight=true, mode=text}  % for siunitx 3: \sisetup{mode=match, reset-text-series=false}
"""


def to_latex(board: Leaderboard, *, intervals: bool = False) -> str:
    r"""Returns a `tabular` with one row a model and one column a cell, in percent; the best of a column is bold.

    Args:
        board: the records.
        intervals: whether the 95 % intervals stand beside the values, in columns that are then text; without them the
            columns are siunitx's `S`, which align at the decimal point.
    """
    shown = grid(board)
    columns = len(shown.columns) + (shown.suite is not None)
    kinds = ("r" * columns) if intervals else "S[table-format=3.2]" * columns
    lines = [_HEAD.rstrip("\n"), rf"\begin{{tabular}}{{l{kinds}}}", r"\toprule", *_titles(shown), r"\midrule"]
    for line in shown.lines:
        values = [_value(value, intervals) for value in line.values]
        if shown.suite is not None:
            values.append(f"{line.mean:.2f}" if line.mean is not None else _nothing("{}/{}".format(*line.num_averaged)))
        model = escaped(line.model)
        # Behind the end of the line before, [ and * would be arguments of it.
        lines.append(rf"{'{}' if model.startswith(('[', '*')) else ''}{model} & {' & '.join(values)} \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [f"% not in the table: {printable(path.as_posix())}: {printable(reason)}" for path, reason in board.apart]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Returns a text of others as LaTeX shows it, with no command of its own."""
    text = printable(text)
    return "".join(
        ("{}" if before + character in _LIGATURES else "") + _escape(character)
        for before, character in pairwise(f" {text}")
    )


def _escape(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    return character if ord(character) <= _LAST_OF_T1 else f"[U+{ord(character):04X}]"


def _titles(shown: Grid) -> list[str]:
    """Returns three lines: tasks, datasets, metrics."""
    rows = [
        ["", *(f"{{{escaped(column.task)}}}" for column in shown.columns)],
        ["", *(f"{{{escaped(column.dataset)}}}" for column in shown.columns)],
        ["model", *(f"{{{escaped(', '.join(map(with_arrow, column.metrics)))}}}" for column in shown.columns)],
    ]
    if shown.suite is not None:
        for row, text in zip(rows, ("mean", shown.suite, ""), strict=True):
            row.append(f"{{{escaped(text)}}}")
    return [rf"{' & '.join(row)} \\" for row in rows]


def _value(value: Shown | None, intervals: bool) -> str:
    if value is None:
        return _nothing("--")
    number = f"{value.value:.2f}"
    bold = r"\bfseries " if value.best else ""
    if not intervals or value.interval is None:
        return bold + number
    if value.half_width is not None:
        return rf"{bold}{number} \(\pm\) {value.half_width:.2f}"
    low, high = value.interval
    return f"{bold}{number} [{low:.2f}, {high:.2f}]"


def _nothing(text: str) -> str:
    return f"{{{text}}}"
