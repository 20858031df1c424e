"""Calls of libraries that compute for long and look for no signal."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

Found = TypeVar("Found")

_Calls = SimpleQueue[tuple[Callable[[], Any], SimpleQueue[tuple[Any, BaseException | None]]]]

_waiting: list[tuple[int, _Calls]] = []
"""The thread that waits for a call, by its process: always the same one, as each would keep memory of its own."""


def interruptible(call: Callable[[], Found]) -> Found:
    """Returns what a call returns, which leaves the interpreter free while it computes; Ctrl-C ends the wait for it.

    It runs in a thread beside the main one, where Python handles signals. After Ctrl-C it is left alone, and ends with
    the process at the latest.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    calls = _thread()
    answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    calls.put((call, answers))
    found, error = answers.get()
    _waiting.append((os.getpid(), calls))
    if error is not None:
        raise error
    answer: Found = found
    return answer


def _thread() -> _Calls:
    """Returns the calls of a thread that has none to make."""
    while _waiting:
        process, calls = _waiting.pop()
        if process == os.getpid():  # a fork has no threads
            return calls
    calls = SimpleQueue()
    threading.Thread(target=_work, args=(calls,), daemon=True).start()
    return calls


def _work(calls: _Calls) -> None:
    while True:
        call, answers = calls.get()
        try:
            answers.put((call(), None))
        except BaseException as error:  # raised again where it is waited for
            answers.put((None, error))
        del call, answers
