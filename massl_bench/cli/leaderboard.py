"""`massl-bench leaderboard`: the table of the records."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from massl_bench.cli.options import IncludePath, Json, ResultsDir, open_registry, split_names
from massl_bench.cli.output import write_out
from massl_bench.core.collector import paused_collector
from massl_bench.core.errors import CellError, RequestError, unknown_name
from massl_bench.core.terminal import say, show, show_document

if TYPE_CHECKING:
    from massl_bench.records.rows import Leaderboard, Selection
    from massl_bench.specs.registry import Registry


_NAMED = 5
"""Records that cannot be read that are named, one by one."""


def leaderboard(
    suite: Annotated[str | None, typer.Option(help="The columns of one suite, in its order.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Only these, by name or pattern (massl-*); repeatable.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(metavar="TASK", help="Only these; as --model.")] = None,
    metric: Annotated[str | None, typer.Option(help="In place of each task's headline, where it was measured.")] = None,
    bundled: Annotated[
        bool, typer.Option("--bundled/--no-bundled", help="With the records that came with the package, or without.")
    ] = True,
    format: Annotated[
        str, typer.Option(help="md, csv, json, html, latex, latex-intervals, or one of a plugin.")
    ] = "md",
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of stdout.")] = None,
    results_dir: ResultsDir = Path("results"),
    include_path: IncludePath = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Compare --out with what would be written; exit 1 where stale, or a record is damaged."
        ),
    ] = False,
    published: Annotated[
        bool, typer.Option("--published", help="Published values instead, and ours beside them: md, csv or json.")
    ] = False,
    serve: Annotated[
        bool,
        typer.Option("--serve", help="Show the page on this machine alone, anew as records arrive, until Ctrl-C."),
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of --serve; 0: any that is free.")] = 8765,
    as_json: Json = False,
) -> None:
    """Print the table of the records, or show it as they arrive.

    The table has the complete records of current tasks.
    """
    from massl_bench.records.outcomes import of_one_state
    from massl_bench.records.reading import check_results_dir
    from massl_bench.records.rows import Selection, collect
    from massl_bench.report.formats import Setting, formats

    chosen = "json" if as_json else format
    writers = formats()
    if chosen not in writers:
        raise unknown_name("format", chosen, writers)
    if check and out is None:
        raise RequestError("--check needs --out FILE: the table to compare with")
    if out is not None and out.is_dir():
        raise RequestError(f"--out {out}: expected a file to write, found a directory")
    given = {"--format": format != "md", "--out": out is not None, "--check": check, "--published": published}
    beside = next((name for name, there in {**given, "--json": as_json}.items() if there), None)
    if serve and beside is not None:
        raise RequestError(f"--serve shows the page: leave out {beside}")
    check_results_dir(results_dir)
    if not results_dir.is_dir():
        rest = "; only the records that came with the package" if bundled else ""
        say(f"--results-dir {results_dir}: is not there{rest}")
    selection = Selection(
        models=split_names("--model", model), tasks=split_names("--task", task), metric=metric, packaged=bundled
    )
    registry = open_registry(include_path)
    if serve:
        _serve(registry, results_dir, suite, selection, port)
        return
    on_terminal = out is None and sys.stdout.isatty()
    setting = Setting(
        registry=registry,
        href=_href(results_dir, out),
        width=shutil.get_terminal_size().columns if on_terminal else None,
    )

    def table() -> tuple[str, int, list[str]]:
        board = collect(results_dir, registry, suite, selection)
        text = _published(chosen, board, registry) if published else writers[chosen]()(board, setting)
        return text, len(board.apart), [f"{path.as_posix()}: {reason}" for path, reason in board.unreadable]

    with paused_collector():  # until the records are gone again
        text, num_apart, unreadable = of_one_state(table)
    if out is None:
        show_document(text)
    elif check:
        _check_fresh(out, text, chosen, unreadable)
    else:
        write_out(out, text)
    if out is not None or chosen == "csv":
        _say_apart(num_apart, unreadable)


def _say_apart(count: int, unreadable: Sequence[str]) -> None:
    """Says how many records are not in a table that nobody sees now, and which of them are damaged."""
    for line in unreadable[:_NAMED]:
        say(line)
    if len(unreadable) > _NAMED:
        say(f"and {len(unreadable) - _NAMED} other records that cannot be read")
    if count:
        say(f"{count} records are not in the table; --format md says why")


def _serve(registry: Registry, results_dir: Path, suite: str | None, selection: Selection, port: int) -> None:
    """Serves the page until Ctrl-C."""
    from massl_bench.report.serving import HOST, LivePage, open_server, page_of

    results_dir.mkdir(parents=True, exist_ok=True)  # a run that makes it takes it away again where all of it fails
    live = LivePage(results_dir, page_of(results_dir, registry, suite, selection))
    with open_server(live, results_dir, port) as server, live.kept_up():
        show(f"http://{HOST}:{server.server_port}/")
        say("on this machine alone; Ctrl-C ends it")
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    say("ended")


def _check_fresh(out: Path, text: str, format: str, unreadable: Sequence[str]) -> None:
    if unreadable:  # a table without it may be fresh, but who lost a number wants to know
        others = f", and {len(unreadable) - 1} other records" if len(unreadable) > 1 else ""
        raise CellError(f"{unreadable[0]}{others}: measure again, or restore or remove the file, and --check again")
    if not out.is_file() or out.read_bytes() != text.encode():
        raise CellError(f"{out} is stale: massl-bench leaderboard --format {format} --out {out} writes it anew")


def _published(format: str, board: Leaderboard, registry: Registry) -> str:
    """Returns the table of published values, of a suite's cells where the board is one's."""
    from massl_bench.records.ledger import FORMATS
    from massl_bench.records.published import claims, ledger

    if format not in FORMATS:
        raise unknown_name("format of published values", format, FORMATS, "the page of --format html shows them, too")
    cells = set(board.cells) if board.suite is not None else None
    known = [claim for claim in claims(registry) if cells is None or (claim.value.task, claim.value.dataset) in cells]
    return FORMATS[format](ledger(known, board.rows))


def _href(results_dir: Path, out: Path | None) -> str:
    """Returns what stands before a record's path in a link of the page: from the page's folder, or the results'."""
    if out is None:
        return ""
    relative = Path(os.path.relpath(results_dir.absolute(), out.absolute().parent)).as_posix()
    return "" if relative == "." else f"{relative}/"
