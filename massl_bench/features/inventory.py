"""What is in a cache: its banks, whether they are as they were written, and what may go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from filelock import FileLock, Timeout

from massl_bench.core.errors import one_line
from massl_bench.core.files import remove_directory
from massl_bench.core.leftovers import leftovers, remove_leftovers
from massl_bench.features.cache import BankMeta, FeatureCache, read_meta, wrong_file
from massl_bench.features.pieces import FOLDER, Unfinished, unfinished

_MEMO_FOLDERS = ("encoders", "fingerprints", "hashes", "models", "precision", "shards", "twins")
"""Beside the banks: hashes and cards that are computed again where they are missing."""

_STALE_S = 3600.0
"""Age of a temporary directory that `clear` removes, in seconds; an extraction touches its own all the time."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One bank."""

    path: Path
    meta: BankMeta | None
    """None where it cannot be read."""
    problem: str | None
    """Why not, or which file is not as it was written."""
    num_bytes: int
    age_s: float
    """Since it was written, in seconds."""


def entries(cache: FeatureCache, *, whole: bool = False) -> Iterator[Entry]:
    """Yields the banks below a directory, in the order of their keys.

    Args:
        cache: where they are.
        whole: whether every file is compared with its hash, and not only what the bank says of itself.
    """
    for path in sorted((cache.root / "features").glob("*/*")):
        if path.name.startswith(".") or not path.is_dir():
            continue
        meta, problem = None, None
        try:
            meta = read_meta(path)
            if meta.key.digest != path.name:
                problem = "meta.json is of another bank"
            elif whole and (broken := wrong_file(path, meta)) is not None:
                problem = f"{broken.name} does not have its sha256"
        except (OSError, ValueError) as error:
            problem = one_line(error)
        sizes = [file.stat().st_size for file in path.iterdir() if file.is_file()]
        age = time.time() - path.stat().st_mtime
        yield Entry(path=path, meta=meta, problem=problem, num_bytes=sum(sizes), age_s=age)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which banks are meant."""

    model: str | None = None
    """A name, or a pattern with `*` and `?`; as for `dataset`."""
    dataset: str | None = None
    older_than_s: float = 0.0
    damaged_only: bool = False

    @property
    def everything(self) -> bool:
        """Whether nothing is kept apart."""
        return self == Wanted()

    def takes(self, entry: Entry) -> bool:
        """Tells whether a bank is meant; of one that cannot be read, nobody knows model and dataset."""
        if self.damaged_only and entry.problem is None:
            return False
        for name, pattern in (("model", self.model), ("dataset", self.dataset)):
            if pattern is not None and (entry.meta is None or not fnmatchcase(getattr(entry.meta, name), pattern)):
                return False
        return entry.age_s >= self.older_than_s

    def takes_unfinished(self, part: Unfinished) -> bool:
        """Tells whether the pieces of a bank that was not finished are meant, and nobody goes on with them."""
        return Wanted(older_than_s=self.older_than_s) == self and part.age_s >= self.older_than_s and not part.in_use


@dataclass(frozen=True, kw_only=True)
class Cleared:
    """What was removed, or would be."""

    removed: tuple[Entry, ...]
    in_use: tuple[Entry, ...]
    """Being written or replaced by another process, and left as they are."""
    leftovers: tuple[Path, ...]
    """Of killed processes."""
    memos: int


def clear(cache: FeatureCache, wanted: Wanted, *, dry_run: bool) -> Cleared:
    """Removes banks; with all of them the memos go too; what killed processes left goes in any case.

    Downloads are kept: they are no work of this machine's own.

    Raises:
        OSError: A file cannot be removed.
    """
    removed, in_use = [], []
    for entry in entries(cache, whole=wanted.damaged_only):
        if not wanted.takes(entry):
            continue
        lock = FileLock(cache.lock_path(entry.path.name))
        try:
            cache.lock_path(entry.path.name).parent.mkdir(parents=True, exist_ok=True)
            with lock.acquire(timeout=0):
                if not dry_run:
                    remove_directory(entry.path)
            removed.append(entry)
        except Timeout:
            in_use.append(entry)
    parts = [part.path for part in unfinished(cache.root) if wanted.takes_unfinished(part)]
    for path in [] if dry_run else parts:
        remove_directory(path)
    made = (folder for name in ("features", FOLDER) for folder in (cache.root / name).glob("*"))
    folders = [*made, *(cache.root / name for name in _MEMO_FOLDERS), cache.root]
    find = leftovers if dry_run else remove_leftovers
    left = [*parts, *(path for folder in folders if folder.is_dir() for path in find(folder, _STALE_S))]
    memos = 0
    for folder in (cache.root / name for name in _MEMO_FOLDERS if wanted.everything):
        memos += len(list(folder.glob("*.json")))
        if not dry_run:
            remove_directory(folder)
    return Cleared(removed=tuple(removed), in_use=tuple(in_use), leftovers=tuple(left), memos=memos)
