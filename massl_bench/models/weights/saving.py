"""Checkpoints as `torch.save` writes them: whole or not at all, with their hash, and with the disk's own errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from massl_bench.core.archive_hash import add_hash
from massl_bench.core.files import atomic_file


class _Writing:
    """A file that remembers why it could not be written: torch turns the disk's errors into its own."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        """Writes to the file; raises its `OSError`."""
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        """Nothing is held here."""


def save_archive(path: Path, content: Mapping[str, Any]) -> None:
    """Writes tensors and plain values so that a reader sees the old file or the whole new one, which carries its hash.

    Raises:
        OSError: It could not be written; nothing of it stays.
    """
    # Through a handle: torch.save writes the name of a path into the file.
    with atomic_file(path) as temporary, temporary.open("w+b") as file:
        writing = _Writing(file)
        try:
            torch.save(dict(content), writing)  # type: ignore[arg-type]  # of a file it uses these two methods
        except RuntimeError as error:
            raise (writing.error or OSError(str(error))) from None
        add_hash(file)
