"""Calls of libraries that compute for long and look for no signal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def interruptible(call: Callable[[], Found]) -> Found:
    """Returns what a call returns, which leaves the interpreter free while it computes; Ctrl-C ends the wait for it.

    It runs in a thread beside the main one, where Python handles signals. After Ctrl-C it is left alone, and ends with
    the process at the latest.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    found: list[Found] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:  # handed to who waits
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return found[0]
