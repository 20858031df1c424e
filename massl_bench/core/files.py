"""Files and hashes: atomic writes, content hashes, canonical JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

_LONGEST_NAME = 150

_BEGINNINGS = (
    (b"version https://git-lfs", "a git-LFS pointer, and git lfs pull fetches the file itself"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"\x89png", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x93numpy", "one NumPy array (.npy)"),
    (b"pk\x03\x04", "a zip archive"),
    (b"\x80", "a pickle"),
)
"""First bytes, in lower case, of what is often found in place of the file that was meant."""


def canonical_json(value: Any) -> str:
    """Returns `value` as JSON with one spelling only: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def sha256_of(value: Any) -> str:
    """Returns the hex sha256 of the canonical JSON of `value`; names of files that are not UTF-8 may be in it."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def open_regular(path: Path) -> BufferedReader:
    """Opens a file to be read, and never waits: whatever else lies in its place is refused, links being followed.

    Raises:
        OSError: There is no file, or a directory, a pipe, a socket or a device.
    """
    # Without O_NONBLOCK, opening a pipe waits for somebody to write to it; for a regular file it changes nothing.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"not a regular file but {_kind_of_file(mode)}", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _kind_of_file(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for is_kind, name in kinds if is_kind(mode)), "a device")


def sha256_file(path: Path) -> str:
    """Returns the hex sha256 of a file's content; raises `OSError` for what is not a regular file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def what_it_is(path: Path) -> str:
    """Returns what a file seems to be by its first bytes, for a message about a file that is not what it should be."""
    with open_regular(path) as file:
        first = file.read(64).lstrip(b"\xef\xbb\xbf \r\n\t")
    if not first:
        return "empty"
    known = (what for start, what in _BEGINNINGS if first.lower().startswith(start))
    return next(known, f"a file that begins with {first[:16].decode('latin-1')!a}")


def stat_signature(path: Path) -> tuple[int, int, int, int]:
    """Returns what must be unchanged for a remembered hash to be trusted: size, times and inode.

    The time of modification can be set, and is by what unpacks archives; that of the last change of the inode is set by
    the file system alone.
    """
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def file_safe(name: str) -> str:
    """Returns `name` with every character outside `[A-Za-z0-9._-]` replaced by `_`; never empty, `.` or `..`."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    if len(safe) > _LONGEST_NAME:  # file systems stop at 255 bytes
        safe = f"{safe[:_LONGEST_NAME]}-{sha256_of(name)[:8]}"
    return safe if safe.strip(".") else "_" + safe


def write_atomic(path: Path, text: str) -> None:
    """Writes `text` to `path` so that a reader sees the old file or the whole new one, never a part."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields the path of a file to write, which becomes `path` when the block ends well, and disappears otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch()
        rights = temporary.stat().st_mode
        yield temporary
        temporary.chmod(rights)  # safetensors makes files that nobody else can read
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yields an empty directory that becomes `path` when the block ends well, and disappears when it does not.

    If another process finished the same `path` first, its directory stays, for it may be in use: both have the same
    content key.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_directory(path: Path) -> None:
    """Removes a directory, of which nobody finds a part meanwhile; one that cannot be removed stays as it is."""
    doomed = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
    try:
        path.rename(doomed)
    except OSError:
        return
    shutil.rmtree(doomed, ignore_errors=True)


def default_cache_dir() -> Path:
    """Returns `MASSL_BENCH_CACHE`, or the user's cache directory."""
    import platformdirs

    return Path(os.environ.get("MASSL_BENCH_CACHE") or platformdirs.user_cache_dir("massl-bench"))


def read_memo(directory: Path, name: str) -> dict[str, Any] | None:
    """Returns what `write_memo` stored under `name`, or None where there is nothing readable."""
    try:
        value = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # a memo only saves time: without it the work is done again
    return value if isinstance(value, dict) else None


def write_memo(directory: Path, name: str, value: dict[str, Any]) -> None:
    """Remembers `value` under `name`; a full or read-only disk loses nothing but time."""
    try:
        # In ASCII: names of files need not be UTF-8.
        write_atomic(directory / f"{name}.json", json.dumps(value, sort_keys=True, allow_nan=False))
    except OSError:
        return
