"""`massl-bench compare`: models against each other, on the items that they share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from massl_bench.cli.options import IncludePath, Json, ResultsDir, open_registry
from massl_bench.cli.output import as_json_document, say_apart, write_out
from massl_bench.core.errors import unknown_name
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
    from massl_bench.records.pairing import pairs_of, plain_comparison
    from massl_bench.records.rows import collect

    if format not in ("text", "html"):
        raise unknown_name("format", format, ["text", "html"])
    board = collect(results_dir, open_registry(include_path), suite)
    pairs = pairs_of(models, board, task=task, dataset=dataset)
    say_apart(board, models)
    found, refused = compare_rows(pairs)
    if as_json:
        plain = {"comparisons": [*map(plain_comparison, found)], "refused": [*map(plain_comparison, refused)]}
        text = as_json_document(plain)
    elif format == "html":
        from massl_bench.report.comparison import comparison_page

        text = comparison_page(found, refused)
    else:
        text = _text(found, refused)
    if out is not None:
        write_out(out, text)
    else:
        show_document(text)


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
    from massl_bench.records.pairing import comparison_texts

    texts = {key: printable(text) for key, text in comparison_texts(one).items()}
    texts["test"] += " ¹" if texts.pop("note") else ""
    return list(texts.values())
