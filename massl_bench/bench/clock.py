"""Seconds: of a call, and of a cell by phase."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from massl_bench.records.record import Timings

T = TypeVar("T")


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """Returns (seconds, value) of a call."""
    start = time.perf_counter()
    value = call()
    return time.perf_counter() - start, value


class Clock:
    """Seconds by phase."""

    def __init__(self, **seconds: float) -> None:
        self._seconds = {"setup": 0.0, "data": 0.0, "extract": 0.0, "protocol": 0.0, **seconds}

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Adds what the block takes to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] += time.perf_counter() - start

    def move(self, source: str, target: str, seconds: float) -> None:
        """Counts `seconds` that are being measured under `source` for `target` instead."""
        self._seconds[source] -= seconds
        self._seconds[target] += seconds

    def timings(self) -> Timings:
        """Returns the seconds of every phase, rounded."""
        rounded = {phase: round(seconds, 4) for phase, seconds in self._seconds.items()}
        return Timings(**rounded, total=round(sum(self._seconds.values()), 4))
