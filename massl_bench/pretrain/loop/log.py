"""What a pretraining says of itself: a JSON line each time, the trackers, and a live line."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from massl_bench.core.errors import CellError, RequestError, one_line
from massl_bench.core.files import write_atomic
from massl_bench.core.wording import asked
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.loop.checkpoint import advice_after
from massl_bench.pretrain.loop.trackers import Tracker, open_trackers

_NAME = "log.jsonl"

_CHECK = "crc32"
"""The key under which a line carries the checksum of the rest of it."""


class TrainingLog:
    """The log of one run, a context; ranks other than the first write nothing.

    Args:
        folder: holds `log.jsonl`, and what trackers keep.
        config: of the pretraining, settled.
        num_steps: of the whole training, for the time left.
        first_step: where this process starts; lines of later steps, left by a killed one, are removed.
        active: whether this rank writes.
    """

    def __init__(self, folder: Path, config: PretrainConfig, *, num_steps: int, first_step: int, active: bool) -> None:
        self._path, self._num_steps, self._batch_size = folder / _NAME, num_steps, config.batch_size
        self._active, self._last, self._waited = active, (time.monotonic(), first_step), 0.0
        self._first_step, self._compiles = first_step, bool(config.compute.compile)
        self._trackers: list[Tracker] = []
        if not active:
            return
        lines = read_log(folder)
        logged = max((line["step"] + 1 for line in lines), default=0)
        with self._disk():
            kept = [line for line in lines if line["step"] < first_step]
            write_atomic(self._path, "".join(map(_line, kept)))
            self._trackers = open_trackers(folder, config, first_step=first_step, logged=logged)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._disk():
            for tracker in self._trackers:
                tracker.close(failed=error is not None)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CellError(
                f"{self._path.parent}: the log could not be written: {one_line(error)}; the checkpoints are as they "
                "were",
                remedy=f"{advice_after(error)} and go on with {asked('resume')}",
            ) from None

    @contextmanager
    def untimed(self) -> Iterator[None]:
        """Leaves what happens inside out of images/s and of the time left."""
        start = time.monotonic()
        yield
        before, step = self._last
        self._last = (before + time.monotonic() - start, step)

    def step_done(self, step: int, *, written: bool) -> None:
        """Says how long the first step took where it compiles, and leaves it out of images/s and of the time left.

        Args:
            step: its number, from 0.
            written: whether `write` follows for this step.
        """
        if step != self._first_step or not self._compiles or written:
            return
        before, _ = self._last
        self._last = (time.monotonic(), step + 1)
        if self._active:
            print(f"compile: the first step took {self._last[0] - before:.0f} s", file=sys.stderr, flush=True)

    def write(self, step: int, values: Mapping[str, float], *, waited: float = 0.0) -> None:
        """Records the values of a step that is done, with images/s and the share of the time spent waiting.

        Args:
            step: its number, from 0.
            values: by name.
            waited: seconds for which this process has waited for images so far.
        """
        if not self._active:
            return
        now, (before, step_before) = time.monotonic(), self._last
        self._last = (now, step + 1)
        seconds, waiting, self._waited = max(now - before, 1e-9), waited - self._waited, waited
        rate = (step + 1 - step_before) * self._batch_size / seconds
        values = {**values, "images_per_s": rate, "waiting": min(1.0, waiting / seconds)}
        line = {"step": step, **{k: v if math.isfinite(v) else None for k, v in values.items()}}  # NaN is no JSON
        with self._disk():
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(line))
            for tracker in self._trackers:
                tracker.write(step, values)
        self._say(step, values)

    def _say(self, step: int, values: Mapping[str, float]) -> None:
        left = timedelta(seconds=round((self._num_steps - step - 1) * self._batch_size / values["images_per_s"]))
        shown = [f"{name} {values[name]:.4g}" for name in ("loss", "lr", "teacher_temp", "knn") if name in values]
        text = f"step {step + 1:,}/{self._num_steps:,}, {left} left: {', '.join(shown)}"
        text += f", {values['images_per_s']:,.0f} images/s, {values['waiting']:.0%} waiting for images"
        if "gpu_memory_mb" in values:
            text += f", {values['gpu_memory_mb']:,.0f} MB of the GPU"
        terminal = sys.stderr.isatty()
        if terminal:  # a line that wraps could not be written over
            text = text[: shutil.get_terminal_size().columns - 1]
        end = "" if terminal and step + 1 < self._num_steps else "\n"
        print(f"\r\x1b[K{text}" if terminal else text, end=end, file=sys.stderr, flush=True)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's log; a last line that a killed process left half written is passed over.

    Raises:
        RequestError: Another line is damaged.
    """
    path = folder / _NAME
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    *lines, rest = text.split("\n")
    values: list[dict[str, Any]] = []
    checked = f'"{_CHECK}"' in text
    if checked and "}" in rest:  # it has its end: no process was killed while it wrote it
        lines.append(rest)
        rest = ""
    for number, line in enumerate(lines, 1):
        try:
            values.append(_values_of(line, checked))
        except (ValueError, RecursionError):
            raise RequestError(
                f"{path}: line {number}: not a line of this log",
                remedy=f"remove that line, or choose another {asked('name')}",
            ) from None
    with contextlib.suppress(ValueError, RecursionError):
        values.append(_values_of(rest, checked))
    return values


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps({**values, _CHECK: _checksum(values)}) + "\n"


def _checksum(values: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(values).encode())


def _values_of(line: str, checked: bool) -> dict[str, Any]:
    """Returns what a line holds; raises `ValueError` or, for deep nesting, `RecursionError` where it is not ours.

    Logs of 0.1 have no checksums; in one that has, every line has its own.
    """
    values: Any = json.loads(line)
    numbers = isinstance(values, dict) and all(
        value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values.values()
    )
    if not numbers or not isinstance(values.get("step"), int) or values["step"] < 0:
        raise ValueError("expected a step, and numbers")
    if checked and values.pop(_CHECK, None) != _checksum(values):
        raise ValueError("its checksum is of another line")
    return {**values}
