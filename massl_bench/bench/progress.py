"""What a run says while it works, on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from massl_bench.core.printable import printable
from massl_bench.core.terminal import say
from massl_bench.features import Reporting

_SECONDS_BETWEEN_LINES = 10.0
_WIDE_TERMINAL = 90


def reporting() -> Reporting:
    """Returns the reporting that suits stderr."""
    return Reporting(say=say, progress=_bar if sys.stderr.isatty() else _lines)


@contextmanager
def _bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Images per second, over the last half minute."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f} images/s" if task.speed else "")

    label = printable(label)
    console = Console(stderr=True)
    columns: list[ProgressColumn] = [MofNCompleteColumn(), Rate(), TimeRemainingColumn()]
    if console.width >= _WIDE_TERMINAL:
        columns = [TextColumn("{task.description}", markup=False), BarColumn(), *columns]
    else:
        console.print(
            label, markup=False, highlight=False
        )  # on a line of its own: the numbers matter more than the bar
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(label, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def _lines(label: str, total: int) -> Iterator[Callable[[int], None]]:
    start = time.monotonic()
    done, last = 0, start

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if done < total and now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            rate = done / (now - start)
            minutes, seconds = divmod(round((total - done) / rate), 60)
            say(f"{label}: {done:,}/{total:,} images, {rate:,.0f} images/s, {minutes}:{seconds:02} left")

    yield advance
    if done == total:
        seconds = time.monotonic() - start
        say(f"{label}: {total:,} images in {seconds:.1f} s, {total / max(seconds, 1e-9):,.0f} images/s")
