"""What a parquet file says of its row groups.

pyarrow says it too, but its calls that do (`row_group(…).column(…)`) are not declared to raise: of some damaged files
they end the process. So the footer is read here: a struct in Thrift's compact protocol, of which a few fields are
wanted. What a file holds is then read by pyarrow, whose readers raise as they should.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from massl_bench.core.files import open_regular

_MAGIC = b"PAR1"
_TAIL = 8
"""The length of the footer, and the mark at the end of the file."""
_DEEPEST = 16
"""Structs and lists in each other; the format has seven."""


@dataclass(frozen=True)
class ColumnChunk:
    """A column's part of a row group."""

    num_bytes: int
    """Before compression, and before values that stand there once are given to each row."""
    num_nulls: int | None
    """None where the file does not say it."""


@dataclass(frozen=True)
class RowGroup:
    """Rows that are kept together."""

    num_rows: int
    columns: Mapping[str, ColumnChunk]
    """By the path of the column, its parts separated by dots."""

    def num_bytes(self, column: str) -> int:
        """Returns the bytes of a column with all that is in it."""
        return sum(chunk.num_bytes for path, chunk in self.columns.items() if path.split(".")[0] == column)


def read_row_groups(path: Path) -> list[RowGroup]:
    """Returns the row groups of a file, in order.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no parquet file, or a damaged one; so does any other error.
    """
    with open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != _MAGIC or length > size - _TAIL - len(_MAGIC):
            raise ValueError("its end is not that of a parquet file")
        file.seek(size - _TAIL - length)
        footer = _Compact(file.read(length)).struct()
    return [_row_group(group) for group in footer[4]]


def _row_group(group: Mapping[int, Any]) -> RowGroup:
    columns = {}
    for chunk in group[1]:
        about = chunk[3]
        path = b".".join(about[3]).decode()
        columns[path] = ColumnChunk(num_bytes=about[6], num_nulls=about.get(12, {}).get(3))
    if group[3] < 0 or any(chunk.num_bytes < 0 for chunk in columns.values()):
        raise ValueError("it counts less than nothing")
    return RowGroup(num_rows=group[3], columns=columns)


class _Compact:
    """Reads values of Thrift's compact protocol; a struct becomes its values by the numbers of its fields."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Returns the struct that begins here."""
        found: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            found[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth + 1)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError("its footer is nested deeper than that of any parquet file")
        match kind:
            case 1 | 2 | 3:  # truth values in lists, and bytes
                return self._byte()
            case 4 | 5 | 6:
                return self._integer()
            case 7:
                return self._bytes(8)
            case 8:
                return self._bytes(self._unsigned())
            case 9 | 10:
                return self._list(depth)
            case 11:
                return self._map(depth)
            case 12:
                return self.struct(depth)
        raise ValueError(f"its footer holds a value of the unknown kind {kind}")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        count = head >> 4 if head >> 4 != 15 else self._unsigned()
        self._check_fits(count)
        return [self._value(head & 15, depth + 1) for _ in range(count)]

    def _map(self, depth: int) -> list[tuple[Any, Any]]:
        count = self._unsigned()
        self._check_fits(count)
        kinds = self._byte() if count else 0
        return [(self._value(kinds >> 4, depth + 1), self._value(kinds & 15, depth + 1)) for _ in range(count)]

    def _check_fits(self, count: int) -> None:
        if count > len(self._content) - self._at:
            raise ValueError("its footer counts more values than it has bytes")

    def _integer(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("its footer holds a number of more than 64 bits")

    def _byte(self) -> int:
        self._check_fits(1)
        self._at += 1
        return self._content[self._at - 1]

    def _bytes(self, count: int) -> bytes:
        self._check_fits(count)
        self._at += count
        return self._content[self._at - count : self._at]
