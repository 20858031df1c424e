"""The application: its commands, and how a call ends.

Exit codes: 0 done; 1 a cell failed while running; 2 known before work started, nothing written; 75 stopped by SIGTERM,
where the same command goes on; 130 interrupted.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

import typer

from massl_bench.cli.benchmark import benchmark_app
from massl_bench.cli.cache import cache_app
from massl_bench.cli.compare import compare
from massl_bench.cli.datasets import datasets_app
from massl_bench.cli.demo import demo
from massl_bench.cli.doctor import doctor
from massl_bench.cli.leaderboard import leaderboard
from massl_bench.cli.output import fail
from massl_bench.cli.pretrain import pretrain
from massl_bench.cli.registry import info, list_
from massl_bench.cli.report import report
from massl_bench.cli.run import run
from massl_bench.cli.stopping import INTERRUPTED, InterruptionError
from massl_bench.cli.verify import verify
from massl_bench.cli.weights import weights_app
from massl_bench.core import terminal
from massl_bench.core.errors import MasslBenchError, RequestError, unforeseen
from massl_bench.core.terminal import say
from massl_bench.core.wording import options_are_read

# Newer versions of typer carry their own copy of click: this is the base of every wrong use, in either.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Evaluate frozen visual representations: exact protocols, one registry, one record a number.",
    epilog="Start with: massl-bench demo",
)
app.command(epilog="Example: massl-bench pretrain --dataset digits --preset tiny-digits")(pretrain)
app.command(epilog="Example: massl-bench run --task knn --dataset cifar10 --data-root data --model pixels")(run)
app.command(epilog="Example: massl-bench demo")(demo)
app.command(epilog="Example: massl-bench leaderboard --format md --out LEADERBOARD.md")(leaderboard)
app.command(epilog="Example: massl-bench compare pixels massl-small-cifar10 --dataset cifar10")(compare)
app.command(epilog="Example: massl-bench report pixels massl-small-cifar10 --out report.html")(report)
app.command(epilog="Example: massl-bench verify results/pixels/knn/digits.json")(verify)
app.command("list", epilog="Example: massl-bench list tasks")(list_)
app.command(epilog="Example: massl-bench info knn")(info)
app.command(epilog="Example: massl-bench doctor")(doctor)
app.add_typer(datasets_app, name="datasets")
app.add_typer(weights_app, name="weights")
app.add_typer(cache_app, name="cache")
app.add_typer(benchmark_app, name="benchmark")


def main() -> None:
    """Runs the command line; every error is one line, whatever it is."""
    terminal.open_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without α shows ? for it
    with options_are_read(), _threads_in_one_line():
        code = _code_of_the_call()
        if (error := terminal.lost("stdout")) is not None and not isinstance(error, BrokenPipeError):
            fail(f"stdout: {error.strerror or error}: the results could not be printed")
            code = code or 1
        terminal.found_again()
        sys.exit(code)


def _code_of_the_call() -> int:
    """Runs what was asked for; says what went wrong; returns the exit code."""
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # typer turns Ctrl-C into this
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            terminal.say_document(f"{error}\n")
        else:
            fail(error.format_message())  # type: ignore[attr-defined]  # it names the option
        return 2
    except RequestError as error:
        fail(str(error))
        return 2
    except MasslBenchError as error:
        fail(str(error))
        return INTERRUPTED if isinstance(error, InterruptionError) else 1
    except (KeyboardInterrupt, typer.Abort):
        fail("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        return 0  # the reader of stdout went away (`| head`): nothing is wrong
    except Exception as error:  # a file that cannot be written, a full disk; a defect of ours or of a library
        if os.environ.get("MASSL_BENCH_TRACEBACK"):
            traceback.print_exc()
        fail(unforeseen(error))
        return 1


@contextmanager
def _threads_in_one_line() -> Iterator[None]:
    """Says in one line what ended a thread (of a library), and what went wrong where nothing can be raised."""
    before = threading.excepthook, sys.unraisablehook

    def ended(original: Callable[[Any], object], details: Any) -> None:
        if os.environ.get("MASSL_BENCH_TRACEBACK"):
            original(details)
        elif isinstance(details.exc_value, Exception):
            say(f"beside the work: {unforeseen(details.exc_value)}")

    threading.excepthook, sys.unraisablehook = (partial(ended, original) for original in before)
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = before


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        terminal.show(f"massl-bench {version('massl-bench')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass
