"""What reaches the terminal: results on stdout, everything else on stderr; a stream that is gone stops no work.

Every line goes through `printable`: nothing of a name or a text of others is taken for a command by the terminal.
"""

from __future__ import annotations

import os
import sys
from typing import Literal, TextIO

from massl_bench.core.printable import printable

_LONGEST = 4000
"""Characters of a line on stderr; longer ones are cut in the middle."""

_lost: dict[str, OSError] = {}
"""Streams that could not be written to, and why."""


def open_streams() -> None:
    """Gives the process the three standard streams, where it was started without one.

    Otherwise the next file that is opened gets the number of the missing stream, and is written to as if it were that.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False))


def say(text: str) -> None:
    """Writes one line to stderr."""
    line = printable(text)
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"
    _write("stderr", line + "\n")


def say_document(text: str) -> None:
    """Writes lines of this package's own, such as a help text, to stderr."""
    _write("stderr", text)


def show(text: str = "") -> None:
    """Writes one line to stdout."""
    _write("stdout", printable(text) + "\n")


def show_document(text: str) -> None:
    """Writes lines to stdout that are safe as they are: a writer of a format escapes what it was given."""
    _write("stdout", text)


def lost(name: Literal["stdout", "stderr"]) -> OSError | None:
    """Returns why a stream could not be written to, or None where it could."""
    return _lost.get(name)


def found_again() -> None:
    """Forgets what was lost: for a new call in the same process."""
    _lost.clear()


def _write(name: Literal["stdout", "stderr"], text: str) -> None:
    if name in _lost:
        return
    stream: TextIO = getattr(sys, name)
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError) as error:  # ValueError: the stream was closed
        _lost[name] = error if isinstance(error, OSError) else OSError(str(error))
        _silence(stream)


def _silence(stream: TextIO) -> None:
    """Sends what is still to come to nowhere: Python would complain once more when it ends."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass
