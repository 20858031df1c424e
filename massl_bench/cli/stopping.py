"""How a command that goes on when it is called again ends early: what it says, and with which exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from massl_bench.core.errors import MasslBenchError

REQUEUE = 75
"""Exit code after SIGTERM (EX_TEMPFAIL): a scheduler can start the command again, and it goes on."""

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


class InterruptionError(MasslBenchError):
    """Ctrl-C in a command that has something of its own to say about it."""


@contextmanager
def stopping(again: str) -> Iterator[None]:
    """Ends what is inside after SIGTERM and Ctrl-C, with what goes on from there; a training takes SIGTERM itself.

    Args:
        again: the command that goes on, for people.

    Raises:
        InterruptionError: After Ctrl-C.
    """
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(REQUEUE))
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptionError(f"{str(error) or 'interrupted'}; {again} goes on") from None
    except SystemExit:
        from massl_bench.bench.progress import say

        say(f"stopped by SIGTERM; {again} goes on")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
