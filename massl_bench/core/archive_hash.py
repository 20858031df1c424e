"""A hash in a file of weights: every reader passes it over, and no changed byte stays unseen.

torch writes zip archives, and does not compare the checksums in them when it reads one: the hash is the archive's
comment. A safetensors file has no checksum: the hash is in its metadata, and of the file with zeros in its place.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import IO

from massl_bench.core.errors import RequestError

_COMMENT = re.compile(rb"sha256:([0-9a-f]{64})")
_LENGTH = len("sha256:") + 64
_END = b"PK\x05\x06"
_END_LENGTH = 22
"""Of an archive's last record without a comment; its last two bytes are the length of the comment."""

HEADER_KEY = "content_sha256"
NO_HASH = "0" * 64
"""What stands in the metadata of a safetensors file until `fill_header_hash`."""

_IN_HEADER = re.compile(HEADER_KEY.encode() + rb'\\?":\s*\\?"([0-9a-f]{64})')


def add_hash(archive: IO[bytes]) -> None:
    """Appends the hash of all that is before it to an archive without a comment, open for reading and writing.

    Raises:
        ValueError: It is no zip archive, or has a comment.
    """
    archive.seek(-_END_LENGTH, os.SEEK_END)
    end = archive.read(_END_LENGTH)
    if not (end.startswith(_END) and end.endswith(b"\0\0")):
        raise ValueError("expected a zip archive without a comment")
    archive.seek(-2, os.SEEK_END)
    archive.write(_LENGTH.to_bytes(2, "little"))
    archive.seek(0)
    digest = hashlib.sha256()
    while part := archive.read(1 << 20):
        digest.update(part)
    archive.write(b"sha256:" + digest.hexdigest().encode())


def has_hash(file: Path) -> bool:
    """Returns whether a file ends with a hash, right or wrong."""
    return _told(file) is not None


def check_hash(file: Path) -> None:
    """Compares a file with the hash at its end, where it has one.

    Raises:
        RequestError: They differ.
    """
    if (told := _told(file)) is None:
        return
    digest = hashlib.sha256()
    with file.open("rb") as archive:
        left = os.fstat(archive.fileno()).st_size - _LENGTH
        while left > 0 and (part := archive.read(min(left, 1 << 20))):
            digest.update(part)
            left -= len(part)
    _compare(file, digest.hexdigest(), told)


def _compare(file: Path, found: str, told: str) -> None:
    if found != told:
        raise RequestError(
            f"{file}: damaged: its bytes are not those that were written (sha256 {found[:12]}…, and it says "
            f"{told[:12]}…)"
        )


def _told(file: Path) -> str | None:
    with file.open("rb") as archive:
        if archive.seek(0, os.SEEK_END) < _LENGTH + _END_LENGTH:
            return None
        archive.seek(-_LENGTH, os.SEEK_END)
        found = _COMMENT.fullmatch(archive.read(_LENGTH))
    return found[1].decode() if found is not None else None


def fill_header_hash(file: Path) -> None:
    """Puts the hash of a safetensors file in the place of the zeros in its metadata."""
    with file.open("r+b") as opened:
        place = _IN_HEADER.search(_header(opened))
        assert place is not None
        assert place[1] == NO_HASH.encode()
        digest = _digest_without(opened, 8 + place.start(1))
        opened.seek(8 + place.start(1))
        opened.write(digest.encode())


def check_header_hash(file: Path) -> None:
    """Compares a safetensors file with the hash in its metadata, where it has one.

    Raises:
        RequestError: They differ.
    """
    with file.open("rb") as opened:
        place = _IN_HEADER.search(_header(opened))
        if place is not None:
            _compare(file, _digest_without(opened, 8 + place.start(1)), place[1].decode())


def _header(opened: IO[bytes]) -> bytes:
    opened.seek(0)
    return opened.read(int.from_bytes(opened.read(8), "little"))


def _digest_without(opened: IO[bytes], start: int) -> str:
    """Returns the hex sha256 of a file in which zeros stand for the 64 bytes from `start` on."""
    opened.seek(0)
    digest = hashlib.sha256(opened.read(start))
    digest.update(NO_HASH.encode())
    opened.seek(start + len(NO_HASH))
    while part := opened.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()
