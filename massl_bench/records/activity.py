"""What is being measured, and what failed: one small file for each run in `<results>/.running`, for those who watch.

No number depends on it, and a run goes on where it cannot be written. The process that writes a file holds a lock
beside it while it lives: a file whose lock is free is that of a run that ended, however it ended. A run that came to
its end without a failure leaves nothing.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import Field

from massl_bench.core.files import (
    canonical_json,
    escaped_json,
    parse_json,
    read_regular,
    sealed,
    unsealed,
    write_atomic,
)
from massl_bench.core.strict import StrictModel
from massl_bench.records.environment import now

FOLDER = ".running"
_SUFFIX = ".run"
_SECONDS_BETWEEN_WRITES = 2.0
"""Of progress; what begins and what ends is written at once."""
_KEPT_S = 7 * 24 * 3600.0
"""Failures of runs that ended longer ago are of no interest."""
_LARGEST = 4 << 20
"""Bytes of a file that is read."""
_MOST_FAILURES = 200
_LONGEST_ERROR = 2000

Cell = tuple[str, str, str]
"""Model, task, dataset."""


class Failure(StrictModel):
    """A cell that failed."""

    model: str
    task: str
    dataset: str
    error: str
    at: str


class Sweep(StrictModel):
    """One run."""

    argv: list[str]
    host: str
    pid: int
    started_at: str
    updated_at: str
    total: int
    """Cells that were asked for."""
    done: int
    """Cells that came to an end, failed ones among them."""
    current: list[str] | None = None
    """Model, task and dataset of the cell that was begun last, until it ends."""
    progress: str | None = None
    failed: list[Failure] = Field(default_factory=list)
    num_failed: int = 0
    """All of them; `failed` holds the first."""


class Watched(StrictModel):
    """A run as a reader finds it."""

    sweep: Sweep
    state: Literal["running", "ended", "unknown"]
    """`unknown` where the lock cannot be asked."""


class Activity:
    """Writes the file of this process's run.

    Args:
        results_dir: where the run writes its records.
        total: cells that were asked for.
    """

    def __init__(self, results_dir: Path, total: int) -> None:
        self._results = results_dir
        self._made = not results_dir.exists()
        moment = now()
        self._sweep = Sweep(
            argv=sys.argv[1:], host=socket.gethostname(), pid=os.getpid(), started_at=moment, updated_at=moment,
            total=total, done=0,
        )  # fmt: skip
        self._file = results_dir / FOLDER / f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        self._written = 0.0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows the run while the block lasts, and afterwards what failed in it."""
        lock = FileLock(_lock_of(self._file))
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            _remove_old(self._file.parent)
            lock.acquire(timeout=1)
        self._write()
        try:
            yield
        finally:
            self._sweep = self._sweep.model_copy(update={"current": None, "progress": None})
            self._write()
            lock.release(force=True)
            self._clean_up()

    def begin(self, cell: Cell) -> None:
        """A cell is begun."""
        self._change(current=list(cell), progress=None)

    def advance(self, text: str) -> None:
        """Something of the cell is so far."""
        self._sweep = self._sweep.model_copy(update={"progress": text})
        if time.monotonic() - self._written > _SECONDS_BETWEEN_WRITES:
            self._change()

    def end(self, cell: Cell, error: str | None) -> None:
        """A cell came to its end."""
        failed, count = self._sweep.failed, self._sweep.num_failed
        if error is not None:
            model, task, dataset = cell
            found = Failure(model=model, task=task, dataset=dataset, error=error[:_LONGEST_ERROR], at=now())
            failed, count = [*failed, found][:_MOST_FAILURES], count + 1
        self._change(done=self._sweep.done + 1, current=None, progress=None, failed=failed, num_failed=count)

    def _change(self, **changes: object) -> None:
        self._sweep = self._sweep.model_copy(update={**changes, "updated_at": now()})
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        with suppress(OSError):
            write_atomic(self._file, escaped_json(canonical_json(sealed(self._sweep.model_dump(mode="json")))))

    def _clean_up(self) -> None:
        """Leaves the file only where something failed; and no folder of results that holds nothing else."""
        alone = self._made and not any(each.name != FOLDER for each in _entries(self._results))
        if not self._sweep.failed or alone:
            _remove(self._file)
        with suppress(OSError):
            self._file.parent.rmdir()
            if self._made:
                self._results.rmdir()


def watch(results_dir: Path) -> tuple[list[Watched], list[str]]:
    """Returns the runs that write their records to a directory, the last first, and the names of files that tell none.

    Of a cell that failed in several runs the last failure is kept.
    """
    found: list[Watched] = []
    unreadable = []
    for file in sorted(_entries(results_dir / FOLDER)):
        if file.suffix != _SUFFIX:
            continue
        try:
            if file.stat().st_size > _LARGEST:
                raise ValueError(f"more than {_LARGEST} bytes")
            sweep = Sweep.model_validate(unsealed(parse_json(read_regular(file))))
        except FileNotFoundError:
            continue  # the run ended meanwhile
        except (OSError, ValueError):
            unreadable.append(file.name)
            continue
        found.append(Watched(sweep=sweep, state=_state(file)))
    found.sort(key=lambda each: each.sweep.started_at, reverse=True)
    return _last_failures(found), unreadable


def _last_failures(found: Sequence[Watched]) -> list[Watched]:
    last: dict[Cell, str] = {}
    for each in found:
        for one in each.sweep.failed:
            cell = one.model, one.task, one.dataset
            last[cell] = max(one.at, last.get(cell, ""))
    return [_with_failures(each, last) for each in found]


def _with_failures(found: Watched, last: Mapping[Cell, str]) -> Watched:
    kept = [one for one in found.sweep.failed if last[one.model, one.task, one.dataset] == one.at]
    return found.model_copy(update={"sweep": found.sweep.model_copy(update={"failed": kept})})


def _state(file: Path) -> Literal["running", "ended", "unknown"]:
    """Asks the lock; takes it for a moment where it is free."""
    place = _lock_of(file)
    if not place.exists():
        return "ended"
    lock = FileLock(place)
    try:
        with lock.acquire(timeout=0):
            return "ended"
    except Timeout:
        return "running"
    except OSError:
        return "unknown"


def _lock_of(file: Path) -> Path:
    return file.with_suffix(".lock")


def _remove_old(folder: Path) -> None:
    """Removes the files of runs that ended, where nothing failed in them or all that long ago."""
    before = time.time() - _KEPT_S
    for file in _entries(folder):
        if file.suffix != _SUFFIX or _state(file) != "ended":
            continue
        with suppress(OSError):
            try:
                nothing = not unsealed(parse_json(read_regular(file))).get("failed")
            except ValueError:  # it is damaged, and tells nobody anything
                nothing = True
            if nothing or file.stat().st_mtime < before:
                _remove(file)


def _remove(file: Path) -> None:
    for path in (file, _lock_of(file)):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
