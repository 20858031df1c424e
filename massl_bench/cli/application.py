"""The application: its commands, and how a call ends.

Exit codes: 0 done; 1 a cell failed while running; 2 known before work started, nothing written; 75 stopped by SIGTERM,
where the same command goes on; 130 interrupted.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from massl_bench.cli.output import fail
from massl_bench.cli.stopping import INTERRUPTED, InterruptionError
from massl_bench.core import terminal
from massl_bench.core.errors import MasslBenchError, RequestError, unforeseen
from massl_bench.core.terminal import say
from massl_bench.core.wording import options_are_read

# Newer versions of typer carry their own copy of click: this is the base of every wrong use, in either.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class Command(NamedTuple):
    """A command, known by one line until it is asked for."""

    place: str
    """MODULE:NAME in this part: a function, or a Typer of several."""
    summary: str
    """What the list of commands says: the first sentence of its own help."""
    example: str | None = None


COMMANDS = {
    "pretrain": Command(
        "pretrain:pretrain",
        "Pretrain a backbone; write NAME.safetensors and its manifest.",
        "massl-bench pretrain --dataset digits --preset tiny-digits",
    ),
    "run": Command(
        "run:run",
        "Run cells: every model on every task and dataset.",
        "massl-bench run --task knn --dataset cifar10 --data-root data --model pixels",
    ),
    "demo": Command("demo:demo", "Pretrain a tiny MaSSL on digits, and print its leaderboard.", "massl-bench demo"),
    "leaderboard": Command(
        "leaderboard:leaderboard",
        "Print the table of the records, or show it as they arrive.",
        "massl-bench leaderboard --format md --out LEADERBOARD.md",
    ),
    "compare": Command(
        "compare:compare",
        "Compare models on the items that all of them were given.",
        "massl-bench compare pixels massl-small-cifar10 --dataset cifar10",
    ),
    "report": Command(
        "report:report",
        "Write one page of charts and images of some models.",
        "massl-bench report pixels massl-small-cifar10 --out report.html",
    ),
    "verify": Command(
        "verify:verify",
        "Compute records again, from the images, and compare.",
        "massl-bench verify results/pixels/knn/digits.json",
    ),
    "list": Command("registry:list_", "List what there is, one name a line.", "massl-bench list tasks"),
    "info": Command("registry:info", "Show one thing in full.", "massl-bench info knn"),
    "doctor": Command(
        "doctor:doctor", "Say what works here, what is missing, and how to get it.", "massl-bench doctor"
    ),
    "datasets": Command("datasets:datasets_app", "Download datasets ahead, verify and compare them."),
    "weights": Command("weights:weights_app", "Register, look into, fetch and export weights."),
    "cache": Command("cache:cache_app", "List, verify and clear extracted features."),
    "benchmark": Command("benchmark:benchmark_app", "Measure what this machine reaches."),
}


def load_command(name: str) -> Any:
    """Imports a command of `COMMANDS`; returns it as the command line calls it."""
    module, _, attribute = COMMANDS[name].place.partition(":")
    found = getattr(importlib.import_module(f"massl_bench.cli.{module}"), attribute)
    if not isinstance(found, typer.Typer):
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(epilog=f"Example: {COMMANDS[name].example}")(found)
        found = alone
    command: Any = typer.main.get_command(found)
    command.name = name
    for each in getattr(command, "commands", {"": command}).values():
        each.parse_args = partial(_parse_once, each, each.parse_args)
    return command


def _parse_once(command: Any, parse_args: Callable[..., list[str]], ctx: Any, args: list[str]) -> list[str]:
    """Parses as the command does; raises `RequestError` where that would drop a value, of which it takes the last."""
    _, _, given = command.make_parser(ctx).parse_args(list(args))
    for option, count in Counter(given).items():
        yes, no = ([name for name in names if name in args] for names in (option.opts, option.secondary_opts))
        if yes and no:
            raise RequestError(f"{yes[0]} and {no[0]}: give one of them")
        if count > 1 and not (option.multiple or option.is_flag):
            raise RequestError(f"{option.opts[0]}: given {count} times, and takes one value; give it once")
    return parse_args(ctx, args)


class _LazyGroup(TyperGroup):
    """Lists its commands from what is known of them, and imports the one that is called: --help imports none."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name is not None else None, rest


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Evaluate frozen visual representations: exact protocols, one registry, one record a number.",
    epilog="Start with: massl-bench demo",
)


def _only_listed() -> None: ...


for _name, _known in COMMANDS.items():
    app.command(_name, help=_known.summary)(_only_listed)


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
