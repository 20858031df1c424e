"""What a run says while it works, on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from massl_bench.core.printable import printable
from massl_bench.core.progress import Progress, Report
from massl_bench.core.terminal import say
from massl_bench.features import Reporting

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_FRAMES = 0.5
_SEEN = 8
"""Times that a computation was looked at, over which its pace is measured."""
_WIDE_TERMINAL = 90


def reporting() -> Reporting:
    """Returns the reporting that suits stderr."""
    on_terminal = sys.stderr.isatty()
    return Reporting(
        say=say, progress=_bar if on_terminal else _lines, working=_working_bar if on_terminal else working_lines
    )


@contextmanager
def _shown(bars: Bars) -> Iterator[Bars]:
    """Shows bars inside, and gives the cursor back also where Ctrl-C came while they were put up."""
    try:
        bars.start()
        yield bars
    finally:
        bars.stop()
        bars.console.show_cursor()


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
    with _shown(Progress(*columns, console=console)) as progress:
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
            say(f"{label}: {done:,}/{total:,} images, {rate:,.0f} images/s, {_clock((total - done) / rate)} left")

    yield advance
    if done == total:
        seconds = time.monotonic() - start
        say(f"{label}: {total:,} images in {seconds:.1f} s, {total / max(seconds, 1e-9):,.0f} images/s")


class _Stage:
    """What is counted at the moment, and how it is said."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._unit: str | None = None
        self._seen: deque[tuple[float, float]] = deque([(self._begun, 0.0)], maxlen=_SEEN)

    def words(self, progress: Progress) -> str:
        """Returns how far it is, with the time that it takes yet at its pace of late."""
        now, (done, left) = time.monotonic(), progress.pieces
        if self._unit not in (None, progress.unit):
            self._seen.clear()
        self._unit = progress.unit
        self._seen.append((now, done))
        (since, before), told = self._seen[0], "time left not known yet"
        if done > before:
            told = f"{_clock((now - since) * left / (done - before))} left"
            told = f"at most {told} at this pace" if progress.at_most else told
        return f"{progress}, {_clock(now - self._begun)} so far, {told}"


@contextmanager
def working_lines(label: str, tell: Callable[[str], None] = say) -> Iterator[Report]:
    """Yields what takes the progress of a computation, and says it in a line now and then."""
    stage, last = _Stage(), time.monotonic()

    def report(told: Callable[[], Progress]) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            tell(f"{label}: {stage.words(told())}")
            last = time.monotonic()

    yield report


@contextmanager
def _working_bar(label: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, TextColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    console, stage, last = Console(stderr=True), _Stage(), time.monotonic()
    # Over several lines where one is too short: the time left stands last.
    text_column = TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold"))
    columns: list[ProgressColumn] = [text_column]
    wide = console.width >= _WIDE_TERMINAL
    if wide:
        columns.append(BarColumn(bar_width=20))
    with _shown(Bars(*columns, console=console, auto_refresh=False, transient=True)) as bars:
        task = bars.add_task("", total=1.0, visible=False)

        def report(told: Callable[[], Progress]) -> None:
            nonlocal last
            if time.monotonic() - last >= _SECONDS_BETWEEN_FRAMES:
                progress = told()
                done, left = progress.pieces
                text = printable(f"{label}: {stage.words(progress)}" if wide else stage.words(progress))
                bars.update(task, completed=done / (done + left), description=text, visible=True, refresh=True)
                last = time.monotonic()

        yield report


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
