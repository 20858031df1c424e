"""How a command that goes on when it is called again ends early: what it says, and with which exit code."""

from __future__ import annotations

import atexit
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from massl_bench.core.errors import MasslBenchError
from massl_bench.core.terminal import say

REQUEUE = 75
"""Exit code after SIGTERM (EX_TEMPFAIL): a scheduler can start the command again, and it goes on."""

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


class InterruptionError(MasslBenchError):
    """Ctrl-C in a command that has something of its own to say about it."""


class _Stop(SystemExit):
    """Raised by a signal; passes everything that catches errors, and runs every clean-up."""

    def __init__(self, code: int, signal_name: str) -> None:
        super().__init__(code)
        self.signal_name = signal_name
        self.said = False


_TERMINATING = ("SIGTERM", "SIGHUP")  # a terminal that is closed means what a scheduler means; Windows has no SIGHUP

_DOUBLE_PRESS_S = 2.0
"""A second Ctrl-C so soon is the same one."""


class Signals:
    """Ends the process once: the first signal says with which code, later ones cannot disturb the clean-up.

    A Ctrl-C that comes later still, because the clean-up takes too long, ends the process at once, with the same code.
    """

    def __init__(self) -> None:
        self._stopped: tuple[int, float] | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handles signals inside; afterwards the process is as it was, unless it is ending because of one.

        No command has done anything by half when it ends: after SIGTERM and SIGHUP the code is `REQUEUE` for all.
        """
        before: dict[int, Any] = {}
        self._stopped = None
        for name in ("SIGINT", *_TERMINATING):
            number = getattr(signal, name, None)
            # What is ignored from the start (nohup, a job in the background) stays so.
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, self._stop)
        try:
            yield
        except _Stop as stop:
            if not stop.said:
                say(f"stopped by {stop.signal_name}; the same command can be given again")
            raise
        finally:
            if self._stopped is None:
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _stop(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        if self._stopped is not None:
            code, since = self._stopped
            if number == signal.SIGINT and now - since > _DOUBLE_PRESS_S:
                os._exit(code)
            return
        self._stopped = INTERRUPTED if number == signal.SIGINT else REQUEUE, now
        atexit.register(_ignore_signals)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise _Stop(REQUEUE, signal.Signals(number).name)


def _ignore_signals() -> None:
    """Keeps the exit code: while it ends, Python gives signals back to the system, which would end the process."""
    # Where Ctrl-C came inside an `exec` (of a library), Python would remember it, and end by that signal.
    exec("")  # nosec B102  # of nothing
    for name in ("SIGINT", *_TERMINATING):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


signals = Signals()
"""Of this process."""


@contextmanager
def stopping(again: str) -> Iterator[None]:
    """Ends what is inside after SIGTERM and Ctrl-C, with what goes on from there; a training takes SIGTERM itself.

    Args:
        again: the command that goes on, for people.

    Raises:
        InterruptionError: After Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptionError(f"{str(error) or 'interrupted'}; {again} goes on") from None
    except _Stop as stop:
        say(f"stopped by {stop.signal_name}; {again} goes on")
        stop.said = True
        raise
