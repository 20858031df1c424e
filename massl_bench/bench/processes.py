"""One request in several processes of this machine, one for each GPU or as many as were asked for.

Each is a shard of the request (`shards`); this process shows what they do, and gathers what becomes of the cells.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Self

from massl_bench.bench.gathering import Gathered
from massl_bench.bench.planner import Planner
from massl_bench.bench.progress import working_lines
from massl_bench.bench.request import RunRequest
from massl_bench.bench.runner import Outcome, run_request
from massl_bench.core.devices import available_cores, num_gpus, resolve_device
from massl_bench.core.errors import RequestError
from massl_bench.core.wording import options_are_read, reads_options
from massl_bench.features import Reporting
from massl_bench.features.options import Shard
from massl_bench.specs.registry import Registry


def devices_of(request: RunRequest) -> list[str]:
    """Returns the device of each process that a request is to be run in.

    All GPUs of the machine where nothing else is asked for; otherwise one process on one device.
    """
    if request.extraction.shard.count > 1:
        return [request.device]
    gpus = [*request.devices]
    images = request.features_file is None and all(isinstance(model, str) for model in request.models)
    if not gpus and request.device == "auto" and images:
        gpus = [f"cuda:{index}" for index in range(num_gpus())]
    places = gpus or [resolve_device(request.device)]
    number = request.processes or max(1, len(gpus))
    return [places[index % len(places)] for index in range(number)]


def run_in_processes(
    request: RunRequest, registry: Registry, reporting: Reporting, devices: Sequence[str]
) -> Iterator[Outcome]:
    """Yields what becomes of the cells of a request, as they are done.

    Args:
        request: models are named in it, not given.
        registry: as for `run_request`.
        reporting: where everything goes that the processes say.
        devices: one for each process.

    Raises:
        RequestError: The request cannot be carried out; before any work.
    """
    if not all(isinstance(model, str) for model in request.models):
        raise RequestError("models that were made in Python stay in one process", field="processes", found=len(devices))
    for device in devices:
        resolve_device(device)
    said: set[str] = set()

    def say(text: str) -> None:  # every process says the same of models and data
        if text not in said:
            said.add(text)
            reporting.say(text)

    said_once = replace(reporting, say=say)
    planner = Planner(request, registry, said_once)
    gathered = Gathered(planner.plan(), planner)
    if not gathered.open:
        yield from gathered.rest()
        return
    say(f"{len(devices)} processes, on {', '.join(dict.fromkeys(devices))}")
    shards = [
        replace(
            request,
            device=device,
            extraction=replace(request.extraction, shard=Shard(index, len(devices), len(devices))),
        )
        for index, device in enumerate(devices)
    ]
    with _Bars(reporting) as bars:
        yield from _gathered(shards, registry, said_once, bars, gathered)
        if gathered.lost:
            say(f"{len(gathered.lost)} cells were not measured to their end: trying them again, in one process")
            yield from _gathered([replace(request, device=devices[0])], registry, said_once, bars, gathered)
    yield from gathered.rest()


class _Bars:
    """The progress of several processes: what they do under one name is one bar."""

    def __init__(self, reporting: Reporting) -> None:
        self._reporting = reporting
        self._open: dict[str, tuple[ExitStack, Callable[[int], None]]] = {}
        self._left: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stack, _advance in self._open.values():
            stack.close()

    def begin(self, label: str, total: int) -> None:
        """Opens a bar, where no other process has."""
        if label not in self._open:
            stack = ExitStack()
            self._open[label] = stack, stack.enter_context(self._reporting.progress(label, total))
            self._left[label] = total

    def advance(self, label: str, number: int) -> None:
        """Moves a bar; one that is at its end is closed."""
        if label in self._open:
            stack, advance = self._open[label]
            advance(number)
            self._left[label] -= number
            if self._left[label] <= 0:
                stack.close()
                del self._open[label]


def _gathered(
    shards: Sequence[RunRequest], registry: Registry, reporting: Reporting, bars: _Bars, gathered: Gathered
) -> Iterator[Outcome]:
    """Runs requests side by side, each in a process of its own, and yields what is final."""
    context = multiprocessing.get_context("spawn")  # a process with a GPU cannot be forked
    pipes: dict[Connection, SpawnProcess] = {}
    shown: dict[str, Callable[..., None]] = {
        "say": reporting.say,
        "begin": bars.begin,
        "advance": bars.advance,
        "started": reporting.started,
    }
    threads = str(max(1, available_cores() // len(shards)))
    try:
        with _environment(OMP_NUM_THREADS=threads), _without_main():
            for shard in shards:
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(theirs, shard, registry, sys.argv, reads_options()))
                process.start()
                theirs.close()  # the end of the process is then the end of the pipe
                pipes[ours] = process
        while pipes:
            for ready in wait(list(pipes)):
                assert isinstance(ready, Connection)
                try:
                    kind, *told = ready.recv()
                except (EOFError, OSError):  # it has ended, maybe in the middle of a message
                    pipes.pop(ready).join()
                    continue
                if kind == "outcome":
                    yield from gathered.take(*told)
                else:
                    shown[kind](*told)
    finally:
        for process in pipes.values():
            process.terminate()
        for process in pipes.values():
            process.join()


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Sets variables that are not set, for the processes that are started inside."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]


@contextmanager
def _without_main() -> Iterator[None]:
    """Lets processes that are started inside not run the user's script again: nothing of it is needed there."""
    main = sys.modules["__main__"]
    told = {name: getattr(main, name) for name in ("__spec__", "__file__") if hasattr(main, name)}
    try:
        main.__spec__ = None
        if "__file__" in told:
            del main.__file__
        yield
    finally:
        for name, value in told.items():
            setattr(main, name, value)


def _work(pipe: Connection, request: RunRequest, registry: Registry, argv: Sequence[str], options: bool) -> None:
    """Runs in a process of its own: sends what it says, and each outcome."""
    sys.argv = [*argv]  # the record keeps the user's command
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that shows ends the others
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    relay = _Relay(pipe)
    with suppress(BrokenPipeError), options_are_read(options):
        try:
            working = partial(working_lines, tell=relay.say)
            reporting = Reporting(say=relay.say, progress=relay.progress, working=working, started=relay.started)
            for outcome in run_request(request, registry, reporting):
                pipe.send(("outcome", outcome))
        except RequestError as error:  # the data or the weights have gone since they were planned with
            relay.say(str(error))


def _end(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)  # with all clean-ups


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


class _Relay:
    """Sends what a run says to the process that shows it."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def say(self, text: str) -> None:
        self._pipe.send(("say", text))

    def started(self, *cell: str) -> None:
        self._pipe.send(("started", *cell))

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        self._pipe.send(("begin", label, total))
        yield lambda number: self._pipe.send(("advance", label, number))
