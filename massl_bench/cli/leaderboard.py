"""`massl-bench leaderboard`: the table of the records."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from massl_bench.cli.options import IncludePath, Json, ResultsDir, open_registry
from massl_bench.core.errors import RequestError, unknown_name

_FORMATS = ("md", "csv", "json", "html")


def leaderboard(
    suite: Annotated[str | None, typer.Option(help="The columns of one suite, in its order.")] = None,
    format: Annotated[str, typer.Option(help="md, csv, json or html.")] = "md",
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of stdout.")] = None,
    results_dir: ResultsDir = Path("results"),
    include_path: IncludePath = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare --out with what would be written; exit 1 where stale.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the table of the complete records of current tasks."""
    from massl_bench.bench.progress import say
    from massl_bench.core.errors import CellError
    from massl_bench.core.files import write_atomic
    from massl_bench.records.record import check_results_dir
    from massl_bench.records.rows import collect
    from massl_bench.records.tables import to_csv, to_json, to_markdown

    chosen = "json" if as_json else format
    if chosen not in _FORMATS:
        raise unknown_name("format", chosen, _FORMATS)
    if check and out is None:
        raise RequestError("--check needs --out FILE: the table to compare with")
    if out is not None and out.is_dir():
        raise RequestError(f"--out {out}: expected a file to write, found a directory")
    check_results_dir(results_dir)
    if not results_dir.is_dir():
        say(f"--results-dir {results_dir}: is not there; only the records that came with the package")
    registry = open_registry(include_path)
    board = collect(results_dir, registry, suite)
    if chosen == "html":
        from massl_bench.report.page import leaderboard_page

        text = leaderboard_page(board, registry, href=_href(results_dir, out))
    elif chosen == "json":
        text = json.dumps(to_json(board), indent=2, ensure_ascii=False) + "\n"
    else:
        text = to_csv(board) if chosen == "csv" else to_markdown(board)
    if check and out is not None:
        if not out.is_file() or out.read_text(encoding="utf-8") != text:
            raise CellError(f"{out} is stale: massl-bench leaderboard --format {chosen} --out {out} writes it anew")
    elif out is not None:
        write_atomic(out, text)
        print(f"written to {out}", file=sys.stderr)
    else:
        print(text, end="")
    if chosen == "csv" and board.apart:
        print(f"{len(board.apart)} records are not in the table; --format md says why", file=sys.stderr)


def _href(results_dir: Path, out: Path | None) -> str:
    """Returns what stands before a record's path in a link of the page: from the page's folder, or the results'."""
    if out is None:
        return ""
    relative = Path(os.path.relpath(results_dir.absolute(), out.absolute().parent)).as_posix()
    return "" if relative == "." else f"{relative}/"
