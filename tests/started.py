"""Processes that tests start: from a server that has imported once what they all need."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.queues import SimpleQueue
from typing import Any

# By the names of installed packages: the server does not have the `sys.path` of pytest, and passes over what it lacks.
_PRELOADED = [
    "faiss",
    "sklearn.datasets",
    "timm",
    "torch",
    "massl_bench.bench.pretraining",
    "massl_bench.bench.runner",
    "massl_bench.cli.run",
    "massl_bench.pretrain.loop.trainer",
]


def forkserver() -> ForkServerContext:
    """Returns where such processes come from: one server for a process of pytest, whichever test begins it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def run_ranks(target: Callable[..., object], *arguments: Any, ranks: int = 2, seconds: float = 240) -> None:
    """Runs `target(rank, *arguments)` in so many processes at once, and asserts that none failed."""
    context = forkserver()
    raised = context.SimpleQueue()
    processes = [context.Process(target=_told, args=(raised, target, rank, *arguments)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=seconds)
    assert [process.exitcode for process in processes] == [0] * ranks, "" if raised.empty() else raised.get()


def _told(raised: SimpleQueue[str], target: Callable[..., object], *arguments: Any) -> None:
    """Tells what was raised: what a process of the server writes to stderr, nobody sees."""
    try:
        target(*arguments)
    except Exception:
        raised.put(traceback.format_exc())
        raise


def become_rank(rank: int, port: int, ranks: int = 2) -> None:
    """Gives this process the environment that torchrun gives its own."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(address | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)})


def free_port() -> int:
    """Returns a port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
