"""What any file is held to: lengths, the depth of containers, the keys of dictionaries; and the two errors of files."""

from __future__ import annotations

import argparse
import io
from typing import IO, Any

from massl_bench.core.printable import printable
from massl_bench.models.reading.tensors import StandIn

MAX_DEPTH = 200
"""Of containers in containers; Python's own pickler stops at a few hundred."""
_LONGEST_LINE = 1 << 16

LARGEST_PICKLE = 128 << 20
"""Bytes of a pickle, without its storages."""
LARGEST_DIRECTORY = 16 << 20
"""Bytes of the list of an archive's members, or of a header: a hundred thousand tensors."""
_LARGEST_KEY = 1 << 60
"""Larger numbers can be made to have one and the same hash."""


class RefusedError(Exception):
    """The pickle is whole, and it is one that must not be believed; the text says why."""


class DamagedError(Exception):
    """The bytes are no pickle of a trainer."""


class Stream:
    """The bytes of a file as `pickletools` reads them, never more than there are.

    Args:
        file: at the first byte.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._at = file, file.tell()
        self._end = file.seek(0, io.SEEK_END)
        file.seek(self._at)

    def tell(self) -> int:
        """Returns the position of the next byte."""
        return self._at

    def read(self, count: int) -> bytes:
        """Returns the next bytes, fewer at the end."""
        content = self._file.read(min(count, self._end - self._at))
        self._at += len(content)
        return content

    def readline(self) -> bytes:
        """Returns the bytes up to and with the next line feed."""
        line = self._file.readline(_LONGEST_LINE)
        self._at += len(line)
        return line


def would_run(name: str) -> str:
    """Returns what is said of a file that names code."""
    return (
        f"it would run {shown(name)} when loaded, and only tensors and plain values are read; nothing was executed; "
        "save it again as a state dict, or as safetensors"
    )


def shown(text: object, longest: int = 80) -> str:
    """Returns a text of a file in one line, fit for a terminal, and cut."""
    plain = printable(str(text)[: longest + 1])
    return plain if len(plain) <= longest else f"{plain[: longest - 1]}…"


def checked_key(key: Any) -> Any:
    """Returns a key of a dictionary or a set, one whose hash is quick and cannot be chosen to collide."""
    if isinstance(key, tuple):
        if len(key) > 16 or any(isinstance(part, tuple) for part in key):
            raise RefusedError("a key made of many parts, which no checkpoint has")
        return tuple(map(checked_key, key))
    if isinstance(key, int | float) and not -_LARGEST_KEY < key < _LARGEST_KEY:
        raise RefusedError("a key that is a number of more than 60 bits, which no checkpoint has")
    return key


def children(value: Any) -> list[Any]:
    """Returns what lies directly inside a value."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, argparse.Namespace):
        return list(vars(value).values())
    if isinstance(value, StandIn):
        return [value.args, value.state, value.items]
    return []


def check_depth(value: Any) -> None:
    """Raises `RefusedError` where containers lie deeper in each other than any checkpoint's, by whichever way."""
    heights: dict[int, int] = {}
    path: list[tuple[Any, list[Any]]] = [(value, children(value))]
    on_path = {id(value)}
    while path:
        owner, left = path[-1]
        if left:
            child = left.pop()
            inside = [] if id(child) in heights or id(child) in on_path else children(child)
            if inside:
                path.append((child, inside))
                on_path.add(id(child))
            height = len(path)
        else:
            path.pop()
            on_path.discard(id(owner))
            height = 1 + max((heights.get(id(child), 0) for child in children(owner)), default=0)
            heights[id(owner)] = height
        if height > MAX_DEPTH:
            raise RefusedError(f"containers lie in each other more than {MAX_DEPTH} deep, which no checkpoint's do")
