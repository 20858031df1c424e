"""What a directory of this package must be."""

from __future__ import annotations

import re
from pathlib import Path

from massl_bench.core.errors import RequestError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""`s3://bucket`, which is `s3:/bucket` as a path; a drive of Windows has one letter."""


def check_directory(directory: Path | None, field: str) -> None:
    """Raises `RequestError`, naming the setting, for the address of an object store.

    A bank, a record and a checkpoint appear whole because a name is given to a finished file at once, and each image
    goes through its network once because processes lock what they make. Object stores rename by copying, and lock
    nothing: half a directory could be seen, and a directory `s3:` would be made here, silently.
    """
    if directory is not None and _ADDRESS.match(str(directory)):
        raise RequestError(
            "an address, and not a directory: object stores have neither locks nor a rename that is seen at once",
            field=field,
            found=str(directory).replace(":/", "://", 1),  # as it was typed: a path holds one slash of two
            remedy="mount a file system that all machines see, or copy the files",
        )
