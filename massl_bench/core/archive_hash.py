"""A hash in the comment of a zip archive: every reader of archives passes it over, and no changed byte stays unseen.

torch writes its files as zip archives, and does not compare the checksums in them when it reads one.
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
    if digest.hexdigest() != told:
        raise RequestError(
            f"{file}: damaged: its bytes are not those that were written (sha256 {digest.hexdigest()[:12]}…, and it "
            f"says {told[:12]}…)"
        )


def _told(file: Path) -> str | None:
    with file.open("rb") as archive:
        if archive.seek(0, os.SEEK_END) < _LENGTH + _END_LENGTH:
            return None
        archive.seek(-_LENGTH, os.SEEK_END)
        found = _COMMENT.fullmatch(archive.read(_LENGTH))
    return found[1].decode() if found is not None else None
