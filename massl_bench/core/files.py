"""Files and hashes: atomic writes, content hashes, canonical JSON, JSON files that carry their own hash."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from massl_bench.core.leftovers import remove_leftovers

_log = logging.getLogger(__name__)

_LONGEST_NAME = 150

SEAL = "content_sha256"
"""The key under which a JSON file carries the hash of all that is beside it."""

_MEMO = "memo"
"""The key under which a memo says of what it is: a file under another's name would be believed."""

MOST_BYTES = 1 << 30
"""Of a file that is read at once, as JSON is: the largest of the known datasets have half of it."""

_DEEPEST = 64
"""Levels of lists and tables in a file; no file of this project has ten."""

_NESTED = (dict, list)

_INVISIBLE = re.compile(r"[^\n\x20-\x7e]")

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
    return _canonical(value)


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode


def escaped_json(text: str) -> str:
    """Returns a JSON text in which whatever is no visible character of a string is written as an escape.

    A lone surrogate, which stands for a byte that is not UTF-8, could not be written to a file otherwise.
    """
    return _INVISIBLE.sub(_json_escape, text)


def _json_escape(found: re.Match[str]) -> str:
    return found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1]


def sha256_of(value: Any) -> str:
    """Returns the hex sha256 of the canonical JSON of `value`."""
    return sha256_of_text(canonical_json(value))


def sha256_of_text(text: str) -> str:
    """Returns the hex sha256 of a text; names of files that are not UTF-8 may be in it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def open_regular(path: Path) -> BufferedReader:
    """Opens a file to be read, and never waits: whatever else lies in its place is refused, links being followed.

    Raises:
        OSError: There is no file, or a directory, a pipe, a socket or a device.
    """
    return os.fdopen(_descriptor_of_regular(path), "rb")


def _descriptor_of_regular(path: Path) -> int:
    # Without O_NONBLOCK, opening a pipe waits for somebody to write to it; for a regular file it changes nothing.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"not a regular file but {_kind_of_file(mode)}", str(path))
        return descriptor
    except BaseException:
        os.close(descriptor)
        raise


def _kind_of_file(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for is_kind, name in kinds if is_kind(mode)), "a device")


def read_regular(path: Path, most_bytes: int | None = MOST_BYTES) -> bytes:
    """Returns the content of a file.

    Raises:
        OSError: As of `open_regular`; or it is larger than any file of its kind (and may hold nothing, on the disk).
    """
    with os.fdopen(_descriptor_of_regular(path), "rb", buffering=0) as file:  # it is read at once
        size = os.fstat(file.fileno()).st_size
        if most_bytes is not None and size > most_bytes:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, and at most {most_bytes:,} are read", str(path))
        return file.readall()


def parse_json(text: str | bytes) -> Any:
    """Returns what a JSON text holds.

    Raises:
        ValueError: It is no JSON, or lists and tables in it are nested deeper than any file of this project has them.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"lists and tables nested more than {_DEEPEST} deep") from None
    opened = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if opened > _DEEPEST:  # fewer cannot be nested deeper
        check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Raises `ValueError` for lists and tables that are nested deeper than what walks through them could follow."""
    level = [value]
    for _ in range(_DEEPEST + 1):
        level = [
            part
            for each in level
            for part in (each.values() if isinstance(each, dict) else each)
            if isinstance(part, _NESTED)
        ]
        if not level:
            return
    raise ValueError(f"lists and tables nested more than {_DEEPEST} deep")


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a JSON file with its own hash beside it."""
    return {**content, SEAL: sha256_of(content)}


def unsealed(content: Any) -> dict[str, Any]:
    """Returns the content of a JSON file without its hash.

    Raises:
        ValueError: It is no table, carries no hash, or is not what it was when the hash was made.
    """
    if not isinstance(content, dict) or SEAL not in content:
        raise ValueError(f"{SEAL}: is missing")
    rest = {key: value for key, value in content.items() if key != SEAL}
    if content[SEAL] != sha256_of(rest):
        raise ValueError(f"{SEAL}: does not match the content")
    return rest


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
    """Returns `name` with every character outside `[A-Za-z0-9._-]` replaced by `_`; never empty, `.` or `..`.

    Different names can become one: `distinct_file_name` tells them apart.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    if len(safe) > _LONGEST_NAME:  # file systems stop at 255 bytes
        safe = f"{safe[:_LONGEST_NAME]}-{sha256_of(name)[:8]}"
    return safe if safe.strip(".") else "_" + safe


def distinct_file_name(name: str) -> str:
    """Returns a file name of its own for every `name`: itself where it can be one, else `file_safe~8 HEX`."""
    safe = file_safe(name)
    return safe if safe == name else f"{safe[:_LONGEST_NAME]}~{sha256_of(name)[:8]}"


def write_atomic(path: Path, text: str) -> None:
    """Writes `text` to `path` so that a reader sees the old file or the whole new one, never a part."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_output(path: Path, text: str) -> None:
    """Writes `text` to a file that the user named: a link is followed, a device or a pipe is written to.

    A file is replaced as a whole; nothing else is ever replaced by a file.
    """
    try:
        target = path.resolve()
    except RuntimeError:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        with target.open("w", encoding="utf-8") as file:
            file.write(text)
    else:
        write_atomic(target, text)


@contextmanager
def atomic_file(path: Path, *, synced: bool = True) -> Iterator[Path]:
    """Yields the path of a file to write, which becomes `path` when the block ends well, and disappears otherwise.

    The new content is on the disk before its name is, and the name is there before this returns; where it is not
    `synced`, a power cut may leave a file of another content, which its reader has to notice.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch()
        rights = temporary.stat().st_mode
        yield temporary
        temporary.chmod(rights)  # safetensors makes files that nobody else can read
        if synced:
            _sync(temporary)
        temporary.replace(path)
        if synced:
            _sync(path.parent)
    finally:
        with suppress(OSError):  # it has become the file; or there is another error to tell
            temporary.unlink()


def _sync(path: Path) -> None:
    """Waits until a file's content, or a folder's names, are on the disk; some file systems know no such folders."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError) if path.is_dir() else nullcontext():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yields an empty directory that becomes `path` when the block ends well, and disappears when it does not.

    If another process finished the same `path` first, its directory stays, for it may be in use: both have the same
    content key.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
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


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """Yields an empty directory in `parent`, which disappears after the block, or, after a kill, when it is old."""
    parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(parent)
    directory = parent / f".scratch.{secrets.token_hex(4)}.tmp"
    directory.mkdir()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def remove_directory(path: Path) -> None:
    """Removes a directory, of which nobody finds a part meanwhile.

    Raises:
        OSError: It stays as it is; or it is gone, and a part of it stays under another name.
    """
    doomed = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
    try:
        path.rename(doomed)
    except FileNotFoundError:  # another process was first
        return
    try:
        shutil.rmtree(doomed)
    except OSError as error:  # of a file in it, by its name alone
        raise OSError(error.errno, error.strerror, str(doomed)) from None


def default_cache_dir() -> Path:
    """Returns `MASSL_BENCH_CACHE`, or the user's cache directory."""
    if said := os.environ.get("MASSL_BENCH_CACHE"):
        return Path(said)
    import platformdirs

    return Path(platformdirs.user_cache_dir("massl-bench"))


def read_memo(directory: Path, name: str) -> dict[str, Any] | None:
    """Returns what `write_memo` stored under `name`, or None where nothing is there as it was written."""
    path = directory / f"{name}.json"
    try:
        value = unsealed(parse_json(read_regular(path)))
        if value.pop(_MEMO, None) != name:
            raise ValueError("it is the memo of something else")
        return value
    except OSError:
        return None  # a memo only saves time: without it the work is done again
    except ValueError as error:
        _log.warning("%s: not as it was written, and made again: %s", path, error)
        return None


def write_memo(directory: Path, name: str, value: dict[str, Any]) -> None:
    """Remembers `value` under `name`; a full or read-only disk loses nothing but time."""
    with suppress(OSError):
        write_atomic(directory / f"{name}.json", escaped_json(canonical_json(sealed({**value, _MEMO: name}))))


def remembered_sha256(path: Path, cache_dir: Path) -> str:
    """Returns the hex sha256 of a file's content, which is computed once for a file that does not change.

    Raises:
        OSError: What lies there is not a regular file.
    """
    key = _hash_key(path)
    memo = read_memo(cache_dir / "hashes", key)
    if memo is not None and isinstance(memo.get("sha256"), str):
        return str(memo["sha256"])
    digest = sha256_file(path)
    write_memo(cache_dir / "hashes", key, {"sha256": digest})
    return digest


def remember_sha256(path: Path, digest: str, cache_dir: Path) -> None:
    """Remembers the hash of a file that was computed while it was written."""
    write_memo(cache_dir / "hashes", _hash_key(path), {"sha256": digest})


def _hash_key(path: Path) -> str:
    return sha256_of([str(path.resolve()), *stat_signature(path)])
