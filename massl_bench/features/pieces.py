"""A bank in the making: its pieces, each a file, made by whichever processes want the bank.

The processes agree through the files alone: a piece is there or it is not, and while one makes it, it holds a lock that
the system frees when the process ends, however it ends. What a killed process had finished is not made again.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from massl_bench.core.errors import one_line
from massl_bench.core.files import (
    atomic_file,
    canonical_json,
    escaped_json,
    parse_json,
    read_regular,
    remove_directory,
    sealed,
    unsealed,
)
from massl_bench.core.printable import printable
from massl_bench.core.strict import StrictModel
from massl_bench.features.options import ExtractionOptions

if TYPE_CHECKING:
    from massl_bench.features.extraction import Extracted

PIECE = 512
"""Images of the largest pieces, where a batch is not larger: a killed process loses no more than what it was at."""

LAST = 32
"""Images of the smallest pieces, which come last, where a batch is not larger."""

_PARTS = 16
"""A piece is at most this part of what is left: processes that work side by side end at nearly the same time."""

FOLDER = "partial"
"""In a cache: the pieces, by the key of their bank."""
_METADATA = "massl_bench"


class _Told(StrictModel):
    """What a piece says of itself."""

    model: str
    first: int
    count: int
    skipped: list[str]
    num_oriented: int
    sha256: str
    """Of the features' bytes, then the kept items'."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece that was made.

    Attributes:
        model: its name, for people who look into the cache.
        features: float32 [n, D].
        kept: the items of the split that the features are of, int64 [n].
        skipped: those left out as corrupt, and why.
        num_oriented: how many files have an EXIF orientation that is not upright.
    """

    model: str
    features: NDArray[np.float32]
    kept: NDArray[np.int64]
    skipped: list[str]
    num_oriented: int


class Pieces:
    """The pieces of one bank that are there, and those that this process makes."""

    def __init__(self, directory: Path, ranges: Sequence[range]) -> None:
        """Opens nothing.

        Args:
            directory: of this bank alone.
            ranges: the items of each piece.
        """
        self.directory, self._ranges = directory, ranges
        self._numbers = {items.start: number for number, items in enumerate(ranges)}
        self._locks: dict[int, FileLock] = {}

    @classmethod
    def of(cls, root: Path, digest: str, num_items: int, options: ExtractionOptions) -> Pieces:
        """Returns the pieces of a bank below a cache's directory, by the digest of its key.

        Where images may be left out, they are others than where none may.
        """
        batch = options.batch_size or LAST
        name = f"{digest}.{batch}{'.skip' if options.skip_corrupt else ''}"
        return cls(root / FOLDER / digest[:2] / name, cut(num_items, batch))

    def __len__(self) -> int:
        return len(self._ranges)

    def range_of(self, number: int) -> range:
        """Returns the items of a piece."""
        return self._ranges[number]

    def missing(self) -> list[int]:
        """Returns the numbers of the pieces that are not there."""
        with suppress(OSError):
            there = {entry.name for entry in os.scandir(self.directory)}
            return [number for number in range(len(self)) if self._file(number).name not in there]
        return list(range(len(self)))

    def claim(self, number: int, is_finished: Callable[[], bool]) -> bool:
        """Takes the lock of a piece; tells whether the piece is this process's to make.

        Args:
            number: of the piece.
            is_finished: whether the bank is there; asked with the lock held, as its pieces go only after it has come.

        Raises:
            OSError: The directory cannot be written to.
        """
        if self._file(number).is_file():
            return False
        lock = FileLock(self._lock(number))
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            return False
        except NotImplementedError:  # a file system without locks: a piece may be made twice, and that is all
            return True
        except FileNotFoundError:  # the bank is there, and its pieces have just gone
            return False
        if is_finished():
            lock.release()
            self.remove()
            return False
        if self._file(number).is_file():
            lock.release()
            return False
        self._locks[number] = lock
        with suppress(OSError):
            self._holder(number).write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        return True

    def put(self, made: Extracted, model: str) -> None:
        """Writes a piece.

        Args:
            made: the piece.
            model: by which it was made; its name, for people.

        Raises:
            OSError: It cannot be written.
        """
        from safetensors.numpy import save

        number = self._numbers[made.items.start]
        features, kept = np.ascontiguousarray(made.features, dtype="<f4"), made.kept.astype("<i8")
        told = _Told(
            model=model,
            first=made.items.start,
            count=len(made.items),
            skipped=made.skipped,
            num_oriented=made.num_oriented,
            sha256=_hash(features, kept),
        )
        metadata = {_METADATA: escaped_json(canonical_json(sealed(told.model_dump(mode="json"))))}
        # Not synced: a piece that a power cut spoils has another hash, and is made again.
        with atomic_file(self._file(number), synced=False) as temporary:
            temporary.write_bytes(save({"features": features, "kept": kept}, metadata))
        self.release(number)

    def release(self, number: int | None = None) -> None:
        """Gives up what this process was to make and did not: one piece, or all."""
        for each in list(self._locks) if number is None else [number]:
            if (lock := self._locks.pop(each, None)) is not None:
                with suppress(OSError):
                    self._holder(each).unlink()
                lock.release()

    def read(self, number: int) -> Piece:
        """Returns a piece.

        Raises:
            OSError: It is not there.
            ValueError: It is not what was written.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        content = read_regular(self._file(number), None)
        try:
            length = int.from_bytes(content[:8], "little")
            header = parse_json(content[8 : 8 + length])
            told = _Told.model_validate(unsealed(parse_json(header["__metadata__"][_METADATA])))
            tensors = load(content)
            features, kept = tensors["features"], tensors["kept"]
        except (SafetensorError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(one_line(error)) from None
        items = self._ranges[number]
        if (told.first, told.count) != (items.start, len(items)) or told.sha256 != _hash(features, kept):
            raise ValueError(f"{self._file(number)}: not what was written")
        return Piece(
            model=told.model, features=features, kept=kept, skipped=told.skipped, num_oriented=told.num_oriented
        )

    def spoil(self, number: int) -> None:
        """Removes a piece that is damaged, so that it is made again."""
        self._file(number).unlink(missing_ok=True)

    def makers(self, numbers: Iterable[int]) -> str:
        """Returns who makes pieces, as far as that is known, for people."""
        found = set()
        for number in numbers:
            with suppress(OSError):
                found.add(printable(self._holder(number).read_text(encoding="utf-8", errors="replace")[:200]))
        return ", ".join(sorted(found)) or "one that has just begun"

    def remove(self) -> None:
        """Removes all pieces."""
        self.release()
        with suppress(OSError):  # what stays is used by nobody, and removed when it is old
            remove_directory(self.directory)
            self.directory.parent.rmdir()  # where it is empty

    def _file(self, number: int) -> Path:
        return self.directory / f"{number:06}.safetensors"

    def _lock(self, number: int) -> Path:
        return self.directory / f"{number:06}.lock"

    def _holder(self, number: int) -> Path:
        return self.directory / f"{number:06}.holder"


def cut(num_items: int, batch: int) -> list[range]:
    """Returns the items of each piece: whole batches, many at first and fewer towards the end (guided scheduling).

    The pieces follow from these two numbers alone, so that all processes cut alike.
    """
    ranges, start = list[range](), 0
    while start < num_items:
        size = max(1, min(PIECE, (num_items - start) // _PARTS) // batch) * batch
        ranges.append(range(start, min(start + size, num_items)))
        start += size
    return ranges


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A bank of which some pieces are there."""

    path: Path
    num_pieces: int
    num_bytes: int
    age_s: float
    """Since the last piece was written, in seconds."""
    in_use: bool
    """Whether a process makes pieces of it."""


def unfinished(root: Path) -> Iterator[Unfinished]:
    """Yields the banks below a cache's directory that are being made, or were when their process was killed."""
    for path in sorted((root / FOLDER).glob("*/*")):
        if path.name.startswith(".") or not path.is_dir():
            continue
        with suppress(FileNotFoundError):  # it is finished meanwhile
            files = [file.stat() for file in path.glob("*.safetensors")]
            yield Unfinished(
                path=path,
                num_pieces=len(files),
                num_bytes=sum(status.st_size for status in files),
                age_s=time.time() - max((status.st_mtime for status in files), default=path.stat().st_mtime),
                in_use=any(_is_locked(lock) for lock in path.glob("*.lock")),
            )


def _is_locked(path: Path) -> bool:
    try:
        with FileLock(path).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False


def _hash(features: NDArray[np.float32], kept: NDArray[np.int64]) -> str:
    found = hashlib.sha256(np.ascontiguousarray(features).data)
    found.update(np.ascontiguousarray(kept).data)
    return found.hexdigest()
