"""The feature cache: one directory a bank, named by its content key, written atomically and verified when read.

A bank is `features.npy` (float32 [N, D], memory-mappable), `labels.npy`, `ids.npy` and `meta.json` with a sha256 of
each and of itself.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from massl_bench.core.errors import CellError, one_line
from massl_bench.core.files import (
    atomic_directory,
    canonical_json,
    open_regular,
    parse_json,
    read_regular,
    remove_directory,
    sealed,
    sha256_file,
    sha256_of,
    unsealed,
)
from massl_bench.core.printable import printable
from massl_bench.core.settings import Preprocessing
from massl_bench.core.strict import StrictModel
from massl_bench.core.values import FeatureBank
from massl_bench.core.wording import asked
from massl_bench.features.options import ExtractionOptions
from massl_bench.features.pieces import Pieces

_POLL_S = 0.05
"""How often a process looks whether another one has finished the bank that it waits for."""

_VERSIONS = "versions"
"""A folder of empty files called after the versions of this package that wrote banks."""

EXTRACTOR_VERSION = 1
"""Raised when the extraction changes in a way that can change features."""


class BankKey(StrictModel):
    """All that can change the arrays of a bank. Batch size, workers and device are not among it: they must not."""

    weights_sha256: str
    """Of the tensors that were loaded, by name."""
    network_sha256: str
    """Of every number of the network that they were loaded into."""
    pooling: str
    preprocessing: Preprocessing
    dataset_fingerprint: str
    split: str
    limit: int | None
    """The first items of the split, or None for all."""
    precision: str
    extractor_version: int = EXTRACTOR_VERSION

    @property
    def digest(self) -> str:
        """Hex sha256 of the key; the name of the bank's directory."""
        return sha256_of(self.model_dump(mode="json"))

    @property
    def images(self) -> tuple[str, str, int | None]:
        """Of which images the bank is, whatever is made of them."""
        return self.dataset_fingerprint, self.split, self.limit


class BankMeta(StrictModel):
    """`meta.json` of a bank."""

    key: BankKey
    model: str
    dataset: str
    num_items: int
    dim: int
    num_classes: int | None
    class_names: list[str] | None
    skipped: list[str]
    validation_from: int | None = None
    sha256: dict[str, str]


@dataclass(frozen=True)
class FeatureCache:
    """The banks below one directory."""

    root: Path

    def path(self, key: BankKey) -> Path:
        """Returns the directory of a bank, whether it is there or not."""
        return self.root / "features" / key.digest[:2] / key.digest

    def lock_path(self, digest: str) -> Path:
        """Returns the file that is locked while a bank is made or replaced."""
        return self.root / "locks" / f"{digest}.lock"

    def versions(self) -> list[str]:
        """Returns the versions of this package that wrote banks here."""
        try:
            return sorted(path.name for path in (self.root / _VERSIONS).iterdir())
        except OSError:
            return []

    def pieces(self, key: BankKey, num_items: int, options: ExtractionOptions) -> Pieces:
        """Returns what there is of a bank that is being made, of a split of so many items under its limit."""
        return Pieces.of(self.root, key.digest, num_items, options)

    def __contains__(self, key: BankKey) -> bool:
        """Tells whether a bank is there; it is verified only when it is read."""
        return (self.path(key) / "meta.json").is_file()

    def read(self, key: BankKey) -> tuple[FeatureBank | None, str | None]:
        """Returns (bank, None), (None, None) where there is none, or (None, what is damaged)."""
        path = self.path(key)
        if not path.is_dir():
            return None, None
        try:
            meta = read_meta(path)
            if (broken := wrong_file(path, meta)) is not None:
                return None, f"{broken} does not have its sha256"
            features = np.load(path / "features.npy", mmap_mode="r")
            labels = np.load(path / "labels.npy") if "labels.npy" in meta.sha256 else None
            ids = np.load(path / "ids.npy")
        except (OSError, ValueError) as error:
            if not path.is_dir():  # another process took it away meanwhile
                return None, None
            return None, f"{path}: {one_line(error)}"
        if meta.key != key or features.shape != (meta.num_items, meta.dim):
            return None, f"{path / 'meta.json'} describes another bank"
        bank = FeatureBank(
            features=features,
            labels=labels,
            ids=ids,
            class_names=tuple(meta.class_names) if meta.class_names is not None else None,
            num_classes=meta.num_classes,
            key=key.digest,
            skipped=tuple(meta.skipped),
            validation_from=meta.validation_from,
        )
        return bank, None

    def discard(self, key: BankKey) -> None:
        """Removes a bank, so that another can be written; whoever has opened it keeps what was opened."""
        with self.writing():
            try:
                remove_directory(self.path(key))
            except OSError:
                if key in self:
                    raise

    @contextmanager
    def held(self, key: BankKey, say: Callable[[str], None]) -> Iterator[None]:
        """Keeps others from writing or removing the same bank until the block, or the process, ends.

        Args:
            key: of the bank.
            say: is told, once, for whom this process waits.

        Raises:
            CellError: The cache cannot be written to.
        """
        with self._locked(key.digest, say):
            yield

    @contextmanager
    def claimed(self, name: str) -> Iterator[str | None]:
        """Takes a lock without waiting; yields None where this process has it, and who has it otherwise.

        Args:
            name: of what only one process at a time should do.

        Raises:
            CellError: The cache cannot be written to.
        """
        with self._locked(name, None) as holder:
            yield holder

    @contextmanager
    def _locked(self, name: str, say: Callable[[str], None] | None) -> Iterator[str | None]:
        """Yields None with a lock; without waiting (`say` is None) maybe without it: then who has it."""
        path = self.lock_path(name)
        holder, lock, other = path.with_suffix(".holder"), FileLock(path), None
        with self.writing(), suppress(NotImplementedError):  # without locks work may be done twice, and that is all
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                other = _who(holder)
            if other is not None and say is not None:
                say(f"another process writes these features, waiting for it: {other}")
                # No deadline: the system frees the lock of a process that ended, so that nobody waits for a dead one.
                lock.acquire(poll_interval=_POLL_S)
                other = None
        if other is not None:
            yield other
            return
        try:
            with suppress(OSError):  # for people only
                holder.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
            yield None
        finally:
            with suppress(OSError):
                holder.unlink()
            lock.release()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Raises `CellError` for an `OSError` inside, where nothing but the cache is touched."""
        try:
            yield
        except OSError as error:
            raise CellError(
                f"the feature cache {self.root} could not be written: {error.strerror or error}; free some space, or "
                f"choose another place with {asked('cache_dir')} or MASSL_BENCH_CACHE"
            ) from None

    @contextmanager
    def writer(self, key: BankKey, dim: int, *, model: str, dataset: str) -> Iterator[BankWriter]:
        """Yields a writer for a new bank, which is there as a whole after the block, or not at all.

        Where a bank of this key is there already, or comes meanwhile, it stays, and the new one is dropped.

        Args:
            key: its content key.
            dim: D.
            model: the model's name, for people who look into the cache.
            dataset: likewise.

        Raises:
            CellError: The bank could not be written (no space left, …).
        """
        written_by = self.root / _VERSIONS / version("massl-bench")
        with (
            self.writing(),
            atomic_directory(self.path(key)) as directory,
            (directory / "features.npy").open("wb") as file,
        ):
            yield BankWriter(key, directory, file, dim, {"model": model, "dataset": dataset})
            written_by.parent.mkdir(exist_ok=True)
            written_by.touch()


def read_meta(directory: Path) -> BankMeta:
    """Reads what a bank says of itself.

    Raises:
        OSError: There is no such file.
        ValueError: It is not what was written.
    """
    return BankMeta.model_validate(unsealed(parse_json(read_regular(directory / "meta.json"))))


def wrong_file(directory: Path, meta: BankMeta) -> Path | None:
    """Returns the first file of a bank that is not what was written, or None where all are."""
    for name, sha256 in meta.sha256.items():
        file = directory / name
        if not _has_its_length(file, meta.num_items) or sha256_file(file) != sha256:
            return file
    return None


def _has_its_length(file: Path, num_items: int) -> bool:
    """Tells whether an array is as long as its header says: what is far longer would take hours to hash.

    Raises:
        OSError: It cannot be read.
    """
    with open_regular(file) as opened:
        try:
            np.lib.format.read_magic(opened)
            shape, _, dtype = np.lib.format.read_array_header_1_0(opened)
        except OSError:
            raise
        except Exception:  # damaged bytes raise nearly anything
            return False
        length = opened.tell() + math.prod(shape) * dtype.itemsize
        return shape[:1] == (num_items,) and length == os.fstat(opened.fileno()).st_size


def _who(holder: Path) -> str:
    """Returns who holds a lock, as far as it is known."""
    try:
        return printable(holder.read_text(encoding="utf-8", errors="replace")[:200])
    except OSError:
        return "one that has just begun"


class BankWriter:
    """Appends features batch by batch.

    They go through ordinary writes, not through a memory map: on a full disk a write raises, a map kills the process.
    """

    def __init__(self, key: BankKey, directory: Path, file: BinaryIO, dim: int, names: Mapping[str, str]) -> None:
        self._key, self._directory, self._file, self._dim, self._names = key, directory, file, dim, names
        self._rows = 0
        # numpy reserves room in the header for a growing first axis: the final count is written over this one.
        self._write_header()

    def _write_header(self) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (self._rows, self._dim)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, features_BD: NDArray[np.float32]) -> None:
        """Appends the features of a batch, float32 [B, D]."""
        self._file.write(np.ascontiguousarray(features_BD, dtype="<f4").tobytes())
        self._rows += len(features_BD)

    def finish(
        self,
        *,
        labels: NDArray[Any] | None,
        ids: NDArray[np.bytes_],
        class_names: Sequence[str] | None,
        num_classes: int | None,
        skipped: Sequence[str],
        validation_from: int | None,
    ) -> None:
        """Writes what belongs to the features, and the meta data."""
        assert len(ids) == self._rows
        self._file.seek(0)
        self._write_header()
        self._file.close()
        arrays = {"ids.npy": ids} if labels is None else {"ids.npy": ids, "labels.npy": labels}
        for name, array in arrays.items():
            np.save(self._directory / name, array)
        meta = BankMeta(
            key=self._key,
            **self._names,
            num_items=self._rows,
            dim=self._dim,
            num_classes=num_classes,
            class_names=list(class_names) if class_names is not None else None,
            skipped=list(skipped),
            validation_from=validation_from,
            sha256={name: sha256_file(self._directory / name) for name in ("features.npy", *arrays)},
        )
        content = canonical_json(sealed(meta.model_dump(mode="json")))
        (self._directory / "meta.json").write_text(content, encoding="utf-8")
