"""Checkpoints of a pretraining: written whole or not at all, and enough for an exact resume.

There is no generator's state in them: random numbers are functions of the seed and the step (see `seeds`), and the
sampler's position is the step.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict

from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils._pytree import tree_map_only

from massl_bench.core.archive_hash import has_hash
from massl_bench.core.errors import CellError, RequestError, one_line
from massl_bench.core.leftovers import remove_leftovers
from massl_bench.core.wording import asked
from massl_bench.models.checkpoints import read_checkpoint
from massl_bench.models.reading import verify_zip
from massl_bench.models.weights.export import official_weights
from massl_bench.models.weights.saving import save_archive
from massl_bench.pretrain import methods
from massl_bench.pretrain.config import differences, flat

FORMAT = 2
"""Format 1 had `memory` (a memory, or None) in place of `method`."""

_LEFT_OVER_S = 15.0
"""How long data workers of a killed training may still hold its folder; they look for their parent every five."""


class Checkpoint(TypedDict):
    """The content of a file: tensors and plain values only, so that `weights_only=True` reads it."""

    format: int
    step: int
    """Steps that are done; also the next step's number, and so the position of sampler and generators."""
    student: dict[str, Tensor]
    teacher: dict[str, Tensor]
    optimiser: dict[str, Any]
    scaler: dict[str, Any]
    method: dict[str, Any]
    """The state of the method."""
    config: dict[str, Any]
    """The resolved configuration."""
    data: dict[str, Any]
    """What was trained on: reference, fingerprint, number of images."""


class CheckpointFolder:
    """The last checkpoints of one run.

    Args:
        folder: holds `checkpoint-STEP.pth`; need not exist.
        keep: how many to keep.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self._keep = folder, keep

    def hold(self) -> contextlib.AbstractContextManager[object]:
        """Keeps other trainings out of the folder until the context ends, or the process does, however that comes.

        Raises:
            RequestError: Another training goes on there.
            CellError: The folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held = FileLock(self.folder / ".lock").acquire(timeout=_LEFT_OVER_S)
            remove_leftovers(self.folder, older_than=0)  # of a killed training: they are as large as checkpoints
            return held
        except Timeout:
            raise RequestError(
                f"{self.folder}: another training of this name is going on",
                remedy=f"choose another {asked('name')}, or end that one and go on with {asked('resume')}",
            ) from None
        except OSError as error:
            raise CellError(f"{self.folder}: cannot be written to: {one_line(error)}; {advice_after(error)}") from None

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints that are there, in order."""
        names = [path.name for path in self.folder.glob("checkpoint-*.pth")]
        return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"checkpoint-(\d+)\.pth", name)))

    def path(self, step: int) -> Path:
        """Returns where the checkpoint of a step lies."""
        return self.folder / f"checkpoint-{step:08}.pth"

    def save(self, checkpoint: Checkpoint) -> Path:
        """Writes a checkpoint, then removes those beyond the last few.

        Raises:
            CellError: It could not be written (no space left); the previous ones are as they were.
        """
        path = self.path(checkpoint["step"])
        write_whole(path, checkpoint)
        for step in self.steps()[: -self._keep]:
            self.path(step).unlink(missing_ok=True)
        return path

    def load(self, step: int) -> Checkpoint:
        """Reads a checkpoint onto the CPU, executing nothing.

        Raises:
            RequestError: The file is not a checkpoint of this trainer.
        """
        path, problem = self.path(step), None
        try:
            checkpoint = training_checkpoint(path)
        except RequestError as error:
            checkpoint, problem = None, str(error)
        if checkpoint is None:
            problem = problem or f"{path}: not a checkpoint of this trainer in format {FORMAT}"
            raise RequestError(f"{problem}; remove it to {self._start_before(step)}")
        return checkpoint

    def _start_before(self, step: int) -> str:
        """Returns, in words, where a run starts that cannot start at this step."""
        for earlier in reversed([each for each in self.steps() if each < step]):
            with contextlib.suppress(RequestError):
                if training_checkpoint(self.path(earlier)) is not None:
                    return f"go on from {self.path(earlier)}, which is whole"
        return "start anew"


class CheckpointWriter:
    """Writes checkpoints beside the training: what is saved is copied to the CPU, and a thread writes the copy.

    As a context manager, it ends when all is written.

    Args:
        folder: where they are written.
        written: is told of each that is there, and of its step, from that thread.
    """

    def __init__(self, folder: CheckpointFolder, written: Callable[[Path, int], None] | None = None) -> None:
        self._folder, self._written = folder, written
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(wait=True)
        if error is None:
            self._wait()

    def save(self, checkpoint: Checkpoint) -> None:
        """Copies a checkpoint and begins to write it, when the one before is written.

        Raises:
            CellError: The one before could not be written.
        """
        self._wait()
        copied = tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), checkpoint)
        self._writing = self._thread.submit(self._write, copied)

    def check(self) -> None:
        """Raises `CellError` where a checkpoint could not be written, as soon as that is known."""
        if self._writing is not None and self._writing.done():
            self._wait()

    def _write(self, checkpoint: Checkpoint) -> None:
        path = self._folder.save(checkpoint)
        if self._written is not None:
            self._written(path, checkpoint["step"])

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def training_checkpoint(file: Path) -> Checkpoint | None:
    """Reads a file onto the CPU, executing nothing; returns None where it is not a checkpoint of this trainer.

    Raises:
        RequestError: The file cannot be read, or a byte of it has changed.
    """
    content = read_checkpoint(file)
    if not isinstance(content, Mapping) or content.get("format") not in (1, FORMAT) or "step" not in content:
        return None
    if content["format"] > 1 and not has_hash(file):
        raise RequestError(f"{file}: damaged: the hash at its end is gone")
    if content["format"] == 1:  # without a hash: the archive's own checksums must do
        verify_zip(file)
        state = content["memory"]
        content = {**content, "format": FORMAT, "method": state if state is not None else {}}
        del content["memory"]
    checkpoint: Checkpoint = content
    return checkpoint


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Writes tensors and plain values with `torch.save`, so that a reader sees the old file or the whole new one.

    The file carries its hash.

    Raises:
        CellError: The file could not be written; nothing of it stays.
    """
    try:
        save_archive(path, content)
    except OSError as error:
        raise CellError(
            f"{path}: could not be written: {one_line(error)}; earlier checkpoints are as they were",
            remedy=f"{advice_after(error)} and go on with {asked('resume')}",
        ) from None


def advice_after(error: OSError) -> str:
    """Returns what the user can do where something could not be written."""
    if error.errno == errno.EIO:
        return "look after the disk"
    return "make space" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "make it writable"


def check_same_run(checkpoint: Checkpoint, config: Mapping[str, Any], data: Mapping[str, Any], where: str) -> None:
    """Raises `RequestError` with all differences where a checkpoint is of another configuration or other data."""
    # The same images may lie at another place: their fingerprint tells.
    before, now = (
        {key: value for key, value in each.items() if key != "reference"} for each in (checkpoint["data"], data)
    )
    found = [f"data.{text}" for text in differences(before, now)]
    found += differences(_as_it_ran(checkpoint["config"], config), config)
    if found:
        text = f"written with another configuration: {'; '.join(found)}"
        raise RequestError(text, where=where, remedy=f"{asked('force')} accepts it")


def _as_it_ran(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a checkpoint's configuration, with what files of before 0.2 do not tell.

    They have `auto` where the device decided, which is taken for what it is now, and every objective was in float32.
    """
    compute = {"objective": "float32", **saved["compute"]}
    return {
        **saved,
        "compute": {key: now["compute"][key] if value == "auto" else value for key, value in compute.items()},
    }


def official_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns a checkpoint in the layout of the authors' trainer, for their tools.

    `student` has the prefix `module.`, as under DistributedDataParallel; the method's state is laid out by the method;
    `epoch` counts finished epochs; `args` is an `argparse.Namespace` of the flat configuration; `fp16_scaler` is there
    where fp16 was used.
    """
    steps_per_epoch = checkpoint["data"]["images"] // checkpoint["config"]["batch_size"]
    official: dict[str, Any] = {
        **official_weights(checkpoint["student"], checkpoint["teacher"]),
        "optimizer": checkpoint["optimiser"],
        "epoch": checkpoint["step"] // steps_per_epoch,
        "args": argparse.Namespace(
            **{key.replace(".", "_"): value for key, value in flat(checkpoint["config"]).items()}
        ),
    }
    official |= methods.load(checkpoint["config"]["method"]).official_state(checkpoint["method"])
    if checkpoint["scaler"]:
        official["fp16_scaler"] = checkpoint["scaler"]
    return official
