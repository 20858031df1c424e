"""Ctrl-C in calls that look for no signal."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from massl_bench.core.interruptible import interruptible
from massl_bench.learners.kmeans import ClusteringSettings, spherical_kmeans


@contextmanager
def ctrl_c_after(seconds: float) -> Iterator[None]:
    """Ctrl-C for this process, which must end what is inside at once."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - start < seconds + 2


def test_what_a_call_returns_and_raises() -> None:
    assert interruptible(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0)
    threads = {interruptible(threading.get_ident) for _ in range(5)}
    assert len(threads) == 1  # each would keep memory of its own
    assert threading.get_ident() not in threads


def test_ctrl_c_ends_the_wait_and_the_next_call_has_a_thread_of_its_own() -> None:
    with ctrl_c_after(0.2):
        interruptible(lambda: time.sleep(6))
    start = time.monotonic()
    assert interruptible(lambda: 8) == 8
    assert time.monotonic() - start < 2


def test_a_fork_has_its_own_thread() -> None:
    interruptible(threading.get_ident)
    child = os.fork()
    if child == 0:
        found = interruptible(lambda: 9)
        os._exit(0 if found == 9 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _clustering() -> object:
    rows = np.random.default_rng(0).standard_normal((20_000, 32), dtype=np.float32)
    settings = ClusteringSettings(num_clusters=50, iterations=100, restarts=10**6, seed=0, max_points_per_centroid=None)
    return spherical_kmeans(rows, settings)


@pytest.mark.parametrize("call", [_clustering])
def test_ctrl_c_in_a_library(call: Callable[[], object]) -> None:
    """FAISS looks for signals itself, once in an iteration; a million runs are one call."""
    with ctrl_c_after(0.5):
        call()
