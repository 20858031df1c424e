"""The checkpoints of a training, measured elsewhere as they appear, while it goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from massl_bench.bench.launch import Launcher
from massl_bench.bench.request import RunRequest
from massl_bench.bench.runner import Outcome
from massl_bench.core.errors import MasslBenchError, RequestError, one_line
from massl_bench.core.wording import asked
from massl_bench.features import Reporting
from massl_bench.specs.registry import Registry

_COPY, _COPIES = "bench-{:08}.pth", "bench-*.pth"


def check_bench_every(every: int, checkpoint_every: int, launcher: str) -> None:
    """Raises `RequestError` where no checkpoint would be there, or where measuring would hold the training up."""
    if launcher == "local":
        remedy = f"give {asked('launcher', 'ray')}, or leave it out: the suite runs after the training all the same"
        raise RequestError(
            "checkpoints are measured beside the training, elsewhere", field="bench_every", found=every, remedy=remedy
        )
    if every % checkpoint_every:
        raise RequestError(
            f"checkpoints are written every {checkpoint_every} steps (run.checkpoint_every)",
            field="bench_every",
            found=every,
            remedy="give a multiple of that",
        )


class BesideTraining:
    """Hands each checkpoint that is due to a launcher, one after the other, from a thread of its own.

    As a context manager, it ends when all of them are measured; after an error, when the one at hand is.

    Args:
        launcher: which works elsewhere.
        request: of a checkpoint, by its file and its step.
        registry: as for the launcher.
        reporting: likewise.
        folder: of the checkpoints, which are pruned: what is measured lies beside them, under another name.
        every: how many steps lie between two that are measured.
    """

    def __init__(
        self,
        launcher: Launcher,
        request: Callable[[Path, int], RunRequest],
        registry: Registry,
        reporting: Reporting,
        *,
        folder: Path,
        every: int,
    ) -> None:
        self._launcher, self._request, self._registry, self._reporting = launcher, request, registry, reporting
        self._folder, self._every = folder, every
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bench")
        self.outcomes: list[Outcome] = []

    def __enter__(self) -> Self:
        for left in self._folder.glob(_COPIES):  # by a training that was killed
            left.unlink(missing_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(wait=True, cancel_futures=error is not None)

    def written(self, file: Path, step: int) -> None:
        """Takes a checkpoint that was just written."""
        if step % self._every:
            return
        copy = self._folder / _COPY.format(step)
        try:
            _link(file, copy)
        except OSError as error:
            self._reporting.say(f"step {step} is not measured: {copy}: {one_line(error)}")
            return
        self._thread.submit(self._measure, copy, step)

    def _measure(self, file: Path, step: int) -> None:
        try:
            for outcome in self._launcher.run(self._request(file, step), self._registry, self._reporting):
                self.outcomes.append(outcome)
                self._reporting.say(_told(outcome))
        except MasslBenchError as error:
            self._reporting.say(f"step {step} is not measured: {error}")
        finally:
            with suppress(OSError):
                file.unlink(missing_ok=True)


def _link(file: Path, copy: Path) -> None:
    copy.unlink(missing_ok=True)
    try:
        os.link(file, copy)
    except OSError:  # a file system without links
        shutil.copyfile(file, copy)


def _told(outcome: Outcome) -> str:
    cell = f"{outcome.model} {outcome.task} {outcome.dataset}"
    if outcome.record is None:
        return f"{cell}: {outcome.error}"
    return f"{cell}: {outcome.record.identity.task.headline} {outcome.record.headline.value:.4f}"
