"""Plain lines without a terminal; a bar on one."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
from rich.live import Live

from massl_bench.bench import progress
from massl_bench.core.progress import Progress


def test_lines_say_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 4.0, 20.0, 25.0, 40.0, 40.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress._lines("m on d/train", 2000) as advance:
        for count in (100, 900, 500, 500):
            advance(count)
    assert capsys.readouterr().err.splitlines() == [
        "m on d/train: 1,000/2,000 images, 50 images/s, 0:20 left",  # at 20 s; 4 s is too soon, and so is 25 s
        "m on d/train: 2,000 images in 40.0 s, 50 images/s",
    ]


@pytest.mark.parametrize("columns", [40, 100])
def test_a_bar_on_a_terminal(columns: int, tmp_path: Path) -> None:
    """On a real (pseudo-)terminal the run draws a bar on stderr and leaves stdout clean."""
    master, terminal = pty.openpty()
    command = [sys.executable, "-m", "massl_bench", "run", "--task", "knn", "--dataset", "digits", "--model", "pixels"]
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, cwd=tmp_path, env=environment, text=True)
    os.close(terminal)
    screen = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # the other end was closed
            break
        if not piece:
            break
        screen += piece
    os.close(master)
    out, _ = child.communicate()
    assert child.returncode == 0
    assert out.count("\n") == 1
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.decode())
    assert "450/450" in text


def test_a_computation_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ten seconds, by its pace of late; what is known at most says so."""
    now: list[float] = [0.0]
    said: list[str] = []
    asked: list[Progress] = []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def told(state: Progress) -> Progress:
        asked.append(state)
        return state

    with progress.working_lines("kmeans on d", said.append) as report:
        for second, state in [
            (4.0, Progress(done=1, total=10, unit="clusterings made")),
            (10.0, Progress(done=2, total=10, unit="clusterings made")),
            (15.0, Progress(done=3, total=10, unit="clusterings made")),
            (3700.0, Progress(done=5, total=10, unit="clusterings made")),
            (3710.0, Progress(done=1, total=4, unit="draws tested")),
            (3730.0, Progress(done=2, total=4, unit="draws tested", work=(4.0, 2.0), at_most=True)),
        ]:
            now[0] = second
            report(partial(told, state))
    assert len(asked) == 4  # it is not asked more often than it is shown
    assert said == [
        "kmeans on d: 2/10 clusterings made, 0:10 so far, 0:40 left",
        "kmeans on d: 5/10 clusterings made, 1:01:40 so far, 1:01:40 left",
        "kmeans on d: 1/4 draws tested, 1:01:50 so far, time left not known yet",
        "kmeans on d: 2/4 draws tested, 1:02:10 so far, at most 0:13 left at this pace",
    ]


@pytest.fixture
def narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COLUMNS": "40", "TERM": "xterm", "TTY_INTERACTIVE": "1", "FORCE_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("narrow_terminal")
def test_a_narrow_terminal_shows_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now: list[float] = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress._working_bar("linear on d") as report:
        now[0] = 60.0
        report(lambda: Progress(done=10, total=46, unit="strengths solved", work=(1.0, 9.0), at_most=True))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    lines = re.split(r"[\r\n]+", text)
    assert max(map(len, lines)) <= 40
    assert "10/46 strengths solved, 1:00 so far, at most 9:00 left at this pace" in " ".join(map(str.strip, lines))


@pytest.mark.usefixtures("narrow_terminal")
@pytest.mark.parametrize(
    "bar", [lambda: progress._bar("m on d/train", 2000), lambda: progress._working_bar("linear on d")]
)
def test_ctrl_c_while_a_bar_is_put_up_gives_the_cursor_back(
    bar: Callable[[], AbstractContextManager[object]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Live, "refresh", Mock(side_effect=[KeyboardInterrupt, *[None] * 9]))
    with pytest.raises(KeyboardInterrupt), bar():
        pass
    codes = re.findall(r"\x1b\[\?25[lh]", capsys.readouterr().err)
    assert codes[0] == "\x1b[?25l"
    assert codes[-1] == "\x1b[?25h"
