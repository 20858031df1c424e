"""`massl-bench compare`: models against each other, on the items that they share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from massl_bench.cli.options import IncludePath, Json, ResultsDir, open_registry
from massl_bench.cli.output import as_json_document, say_apart, write_out
from massl_bench.core.errors import RequestError, unknown_name
from massl_bench.core.printable import printable
from massl_bench.core.terminal import show_document

if TYPE_CHECKING:
    from massl_bench.records.comparison import Comparison, Refusal
    from massl_bench.records.rows import Row


def compare(
    models: Annotated[
        list[str],
        typer.Argument(help="Two models or more, as a leaderboard names them, or records; held against the first."),
    ],
    suite: Annotated[str | None, typer.Option(help="The cells of one suite only.")] = None,
    task: Annotated[str | None, typer.Option(help="One task only.")] = None,
    dataset: Annotated[str | None, typer.Option(help="One dataset only.")] = None,
    format: Annotated[str, typer.Option(help="text or html.")] = "text",
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of stdout.")] = None,
    results_dir: ResultsDir = Path("results"),
    include_path: IncludePath = None,
    as_json: Json = False,
) -> None:
    """Compare models on the items that all of them were given.

    For each pair: difference, interval, exact test, corrected over the cells.

    McNemar's test for right and wrong, the sign test for anything else, Holm's correction over all cells shown. Records
    without outcomes of single items are compared by their intervals, and say so.

    --json prints {comparisons: [...], refused: [...]}.
    """
    from massl_bench.records.comparison import compare_rows
    from massl_bench.records.rows import collect

    if format not in ("text", "html"):
        raise unknown_name("format", format, ["text", "html"])
    if len(set(models)) < 2:
        raise RequestError(f"compare {' '.join(models)}: expected two models or more")
    board = collect(results_dir, open_registry(include_path), suite)
    wanted = [row for row in board.rows if task in (None, row.cell[0]) and dataset in (None, row.cell[1])]
    pairs = _pairs([_of_model(name, wanted) for name in dict.fromkeys(models)], models)
    say_apart(board, models)
    found, refused = compare_rows(pairs)
    if as_json:
        refusals = [{**_whose(one), "reason": one.reason} for one in refused]
        text = as_json_document({"comparisons": [_plain(one) for one in found], "refused": refusals})
    elif format == "html":
        from massl_bench.report.comparison import comparison_page

        text = comparison_page(found, refused)
    else:
        text = _text(found, refused)
    if out is not None:
        write_out(out, text)
    else:
        show_document(text)


def _of_model(name: str, rows: list[Row]) -> dict[tuple[str, str], Row]:
    """Returns the records of a model by cell; the one of a file, whatever keeps it out of tables."""
    if name.endswith(".json"):
        from massl_bench.records.record import read_record
        from massl_bench.records.rows import Row

        record = read_record(Path(name))
        row = Row(path=Path(name), record=record, metric=record.identity.task.headline, file=Path(name))
        return {row.cell: row}
    own = [row for row in rows if name in (row.record.identity.model.name, _with_hash(row))]
    if not own:
        known = {row.record.identity.model.name for row in rows}
        raise unknown_name("model", name, known, "models with a current, complete record of these cells")
    if len({row.model for row in own}) > 1:
        which = ", ".join(sorted({repr(_with_hash(row)) for row in own}))
        raise RequestError(f"{name}: is the name of several weights; say which: {which}")
    return {row.cell: row for row in own}


def _with_hash(row: Row) -> str:
    """Returns the name as tables show it where two models share it."""
    return f"{row.record.identity.model.name} ({row.model[:8]})"


def _pairs(found: list[dict[tuple[str, str], Row]], models: list[str]) -> list[tuple[Row, Row]]:
    first, *others = found
    pairs = [(first[cell], other[cell]) for cell in first for other in others if cell in other]
    if not pairs:
        raise RequestError(f"no cell is measured of {models[0]} and of one of {', '.join(models[1:])}")
    return pairs


def _name(row: Row) -> str:
    return printable(row.record.identity.model.name)


_HEADS = ("difference", "95 % interval", "better : worse", "p", "verdict", "test")


def _text(found: list[Comparison], refused: list[Refusal]) -> str:
    from tabulate import tabulate

    from massl_bench.records.comparison import LEVEL_IN_WORDS

    lines = []
    if found:
        heads = ["cell", "model", _name(found[0].first), "model's", *_HEADS]
        align = ("left", "left", *["right"] * 6, "left", "left")
        lines += [tabulate([_line(one) for one in found], heads, disable_numparse=True, colalign=align), ""]
        lines += [f"Verdicts at {LEVEL_IN_WORDS}, corrected over the {len(found)} rows together (Holm)."]
    lines += [f"¹ {printable(note)}" for note in dict.fromkeys(one.note for one in found if one.note is not None)]
    for one in refused:
        cell, names = printable(" ".join(one.first.cell)), f"{_name(one.first)} and {_name(one.second)}"
        lines.append(f"not compared: {cell}, {names}: {printable(one.reason)}")
    return "\n".join(lines) + "\n"


def _line(one: Comparison) -> list[str]:
    from massl_bench.records.comparison import verdict

    scale = one.first.record.headline_scale
    return [
        printable(f"{' '.join(one.first.cell)} {one.first.metric}"),
        _name(one.second),
        *(f"{scale * row.shown.value:.2f}" for row in (one.first, one.second)),
        f"{scale * one.difference:+.2f}",
        f"[{scale * one.ci95[0]:+.2f}, {scale * one.ci95[1]:+.2f}]" if one.ci95 is not None else "",
        f"{one.better} : {one.worse}" if one.better is not None else "",
        f"{one.p_value:.2g}",
        verdict(one),
        one.test + (" ¹" if one.note is not None else ""),
    ]


_PLAIN = ("difference", "ci95", "better", "worse", "p_value", "different", "test", "note")


def _plain(one: Comparison) -> dict[str, Any]:
    values = [one.first.shown.value, one.second.shown.value]
    return {**_whose(one), "metric": one.first.metric, "values": values, **{key: getattr(one, key) for key in _PLAIN}}


def _whose(one: Comparison | Refusal) -> dict[str, Any]:
    names = [row.record.identity.model.name for row in (one.first, one.second)]
    return {"task": one.first.cell[0], "dataset": one.first.cell[1], "models": names}
