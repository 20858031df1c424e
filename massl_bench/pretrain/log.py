"""What a pretraining says of itself: a JSON line each time, TensorBoard where it is installed, and a live line."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from massl_bench.storage import write_atomic

_NAME = "log.jsonl"


class TrainingLog:
    """The log of one run; ranks other than the first write nothing.

    Args:
        folder: holds `log.jsonl`, and TensorBoard's files under `tensorboard/`.
        num_steps: of the whole training, for the time left.
        batch_size: images of a step, for the speed.
        first_step: where this process starts; lines of later steps, left by a killed one, are removed.
        active: whether this rank writes.
    """

    def __init__(self, folder: Path, *, num_steps: int, batch_size: int, first_step: int, active: bool) -> None:
        self._path, self._num_steps, self._batch_size = folder / _NAME, num_steps, batch_size
        self._active, self._last = active, (time.monotonic(), first_step)
        self._tensorboard: Any = None
        if not active:
            return
        folder.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_log(folder) if line["step"] < first_step]
        write_atomic(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records the values of a step that is done.

        Args:
            step: its number, from 0.
            values: by name.
        """
        if not self._active:
            return
        now, (before, step_before) = time.monotonic(), self._last
        self._last = (now, step + 1)
        rate = (step + 1 - step_before) * self._batch_size / max(now - before, 1e-9)
        line: dict[str, float] = {"step": step, **values, "images_per_s": rate}
        with self._path.open("a", encoding="utf-8") as file:
            # NaN is no JSON: it becomes null.
            file.write(json.dumps({k: v if math.isfinite(v) else None for k, v in line.items()}) + "\n")
        if self._tensorboard is not None:
            for name, value in line.items():
                self._tensorboard.add_scalar(name, value, step)
        self._say(step, line)

    def _say(self, step: int, line: Mapping[str, float]) -> None:
        left = (self._num_steps - step - 1) * self._batch_size / line["images_per_s"]
        minutes, seconds = divmod(round(left), 60)
        shown = [f"{name} {line[name]:.4g}" for name in ("loss", "lr", "teacher_temp", "knn") if name in line]
        text = f"step {step + 1:,}/{self._num_steps:,}: {', '.join(shown)}, {line['images_per_s']:,.0f} images/s"
        text += f", {minutes}:{seconds:02} left"
        terminal = sys.stderr.isatty()
        end = "" if terminal and step + 1 < self._num_steps else "\n"
        print(f"\r\x1b[K{text}" if terminal else text, end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Writes out what TensorBoard still holds back."""
        if self._tensorboard is not None:
            self._tensorboard.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's log; a last line that a killed process left half written is passed over."""
    path = folder / _NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    values = []
    for number, line in enumerate(lines):
        try:
            values.append(json.loads(line))
        except ValueError:
            if number + 1 < len(lines):
                raise
    return values
