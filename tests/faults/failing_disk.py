"""Commands over and over in one process, each time with another operation of the disk failing: see `test_disk`.

Where Python announces an operation to its audit hooks, the hook raises what the disk would. Bytes that cannot be
written are not among them (`RLIMIT_FSIZE` stands for these in the tests of extraction and training).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from massl_bench import cli
from tests.conftest import write_image

_ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)
_CHANGING = frozenset({"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.utime", "os.truncate"})
_WRITING = os.O_WRONLY | os.O_RDWR


class Disk:
    """Counts what is changed below a folder; the operation of one number fails, once."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self.watching, self.count, self.fails, self.error, self.failed = False, 0, 0, errno.EIO, ""
        sys.addaudithook(self._announced)
        fsync = os.fsync

        def synced(fd: Any) -> None:
            self._operation("os.fsync", self._name(fd))
            fsync(fd)

        os.fsync = synced

    def run(self, arguments: Sequence[str], fails: int = 0, error: int = errno.EIO) -> dict[str, Any]:
        """Runs a command; returns its exit code and what it printed."""
        sys.argv = ["massl-bench", *arguments]
        self.count, self.fails, self.error, self.failed = 0, fails, error, ""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            self.watching = True
            try:
                cli.main()
            except SystemExit as ended:
                code = ended.code
            finally:
                self.watching = False
        return {"code": code, "out": out.getvalue(), "err": err.getvalue()}

    def _announced(self, event: str, details: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        if event == "open":
            if isinstance(details[0], str | bytes) and (details[2] or 0) & _WRITING:
                self._operation("open", os.fsdecode(details[0]))
        elif event in _CHANGING:
            self._operation(event, str(details[0]))
        elif event == "fcntl.flock" and details[1] != _UNLOCK:
            self._operation(event, self._name(details[0]))

    def _operation(self, name: str, path: str) -> None:
        if self.watching and str(Path(path).absolute()).startswith(self._folder):
            self.count += 1
            if self.count == self.fails:
                self.failed = f"{name} {os.path.relpath(path, self._folder)}"
                raise OSError(self.error, os.strerror(self.error), path)

    @staticmethod
    def _name(file: int) -> str:
        return str(Path(f"/proc/self/fd/{file}").readlink())


_UNLOCK = 8

_KNN = ["--task", "knn", "--set", "knn.k=1", "--set", "knn.headline=top1@1", "--model", "pixels"]
_RUN = ["run", "--dataset", "folder:d", *_KNN]
_SMALL = (
    *("epochs=6", "batch_size=8", "massl.teacher_temp_warmup_epochs=1"),
    *("backbone.depth=1", "head.hidden_dim=16", "head.out_dim=16"),
    *("run.checkpoint_every=2", "run.knn_every=0", "run.log_every=1"),
)
_TRAINING = ["pretrain", "--dataset", "folder:d", "--preset", "tiny-digits", "--name", "t", "--resume"]
_TRAINING += [part for setting in _SMALL for part in ("--set", setting)]


def _images(folder: Path) -> None:
    for number, (split, name) in enumerate((split, name) for split in ("train", "test") for name in "ab"):
        for image in range(4):
            write_image(folder / "d" / split / name / f"{image}.png", seed=10 * number + image, size=(16, 14))


def _records(folder: Path) -> object:
    found = {}
    for file in sorted(folder.glob("results/*/*/*.json")):
        record = json.loads(file.read_text())
        found[file.name] = [record["identity"], record["metrics"]]
    return found


def _hashes(pattern: str) -> Callable[[Path], object]:
    return lambda folder: {
        file.name: hashlib.sha256(re.sub(rb"\d{4}-\d\d-\d\d[ T]?[\d:+]*", b"", file.read_bytes())).hexdigest()
        for file in sorted(folder.glob(pattern))
    }


COMMANDS: Mapping[str, tuple[Sequence[Sequence[str]], Sequence[str], Callable[[Path], object]]] = {
    "run": ([], _RUN, _records),
    "leaderboard": ([_RUN], ["leaderboard", "--format", "html", "--out", "l.html"], _hashes("l.html")),
    "report": ([_RUN], ["report", "pixels", "--out", "r.html"], lambda folder: (folder / "r.html").is_file()),
    "cache": ([_RUN], ["cache", "clear"], _hashes("cache/features/*/*/*")),
    "pretrain": ([], _TRAINING, _hashes("weights/t.safetensors")),
    "add": (
        [_TRAINING],
        ["weights", "add", "weights/t.safetensors", "--name", "u", "--copy"],
        _hashes("weights/u.*"),
    ),
}
"""By name: what is run before, what is run on the failing disk, and what must be the same after it."""


def main(folder: Path, name: str, count: int, seed: int) -> None:
    """Prints a line of JSON for each of `count` operations, or all there are, that failed."""
    before, command, result = COMMANDS[name]
    start, work = folder / "start", folder / "work"
    start.mkdir()
    _images(start)

    def enter(place: Path) -> None:
        os.chdir(place)
        os.environ["MASSL_BENCH_CACHE"] = str(place / "cache")

    disk = Disk(work)
    enter(start)
    for each in before:
        assert disk.run(each)["code"] == 0

    def anew() -> None:
        os.chdir(folder)
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(start, work)
        enter(work)

    anew()
    assert disk.run(command)["code"] == 0
    wanted, rng = result(work), random.Random(seed)
    numbers = sorted(rng.sample(range(1, disk.count + 1), min(count, disk.count)))
    for number in numbers:
        anew()
        error = rng.choice(_ERRORS)
        answer = disk.run(command, number, error)
        told = {"operation": disk.failed, "error": os.strerror(error), **answer, "right": result(work) == wanted}
        told["left"] = [str(path) for path in work.rglob(".*") if path.name.endswith((".tmp", ".old"))]
        again = disk.run(command if answer["code"] else _in_place(command))
        told["again"] = {**again, "right": result(work) == wanted}
        print(json.dumps(told), flush=True)


def _in_place(command: Sequence[str]) -> Sequence[str]:
    """Returns a command that was carried out, to be carried out again."""
    return [*command, "--force"] if command[:2] == ["weights", "add"] else command


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
