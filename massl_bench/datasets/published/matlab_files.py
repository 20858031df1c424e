"""MATLAB's MAT-files of level 5, read without a library that a damaged one can crash.

A file is a header of 128 bytes and elements: a type, a number of bytes, and these. An element of type 14 is an array
(flags, sizes, name, content), one of type 15 such an element in zlib's compression. Only numbers, texts, cells and
structures are read. Nothing is believed beyond the bytes that are there.
Source: MathWorks, "MAT-File Format", R2024, chapter 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import open_regular
from massl_bench.core.printable import printable

_HEADER = 128
_LARGEST = 256 << 20
"""Bytes of a file, and of what is unpacked of it; the tables of datasets have some MB."""
_DEEPEST = 16
"""Cells in cells and structures in structures."""

_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""How an element of that type stores numbers."""
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""What numbers an array of that class holds, however they are stored."""
_TEXTS = {16: "utf-8", 17: "utf-16", 18: "utf-32", 4: "utf-16", 2: "latin-1", 1: "latin-1"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_LOGICAL, _COMPLEX = 0x02, 0x08


def read_mat(path: Path) -> dict[str, Any]:
    """Returns the variables of a MAT-file, without dimensions of length one.

    Returns:
        By name: numbers as arrays, or as numbers where there is one; texts as strings, or arrays of them; cells as
        arrays of objects; structures as dictionaries by field, or arrays of them.

    Raises:
        RequestError: It is no such file, damaged, larger than a table, or holds what is not read.
    """
    try:
        with open_regular(path) as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ValueError(f"more than {_LARGEST:,} bytes")
        return _Reader(content).variables()
    except OSError as error:
        raise RequestError(f"{printable(path)}: cannot be read: {error.strerror}") from None
    except (ArithmeticError, LookupError, TypeError, ValueError, struct.error, zlib.error) as error:
        raise RequestError(f"{printable(path)}: not a MATLAB file that can be read: {one_line(error)}") from None


class _Reader:
    """Reads the elements of one file."""

    def __init__(self, content: bytes) -> None:
        if len(content) < _HEADER or content[126:128] not in (b"IM", b"MI"):
            raise ValueError("no header of a MAT-file of level 5")
        self._order = "<" if content[126:128] == b"IM" else ">"
        self._content = memoryview(content)
        self._unpacked = 0

    def variables(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for outer, data in self._elements(self._content[_HEADER:]):
            parts = self._elements(self._unpack(data)) if outer == _COMPRESSED else [(outer, data)]
            for kind, array in parts:
                if kind == _MATRIX:
                    name, value = self._matrix(array, 0)
                    found[name] = value
        return found

    def _unpack(self, data: memoryview) -> memoryview:
        unpacker = zlib.decompressobj()
        unpacked = unpacker.decompress(data, _LARGEST - self._unpacked + 1)
        self._unpacked += len(unpacked)
        if self._unpacked > _LARGEST:
            raise ValueError(f"unpacked, it has more than {_LARGEST:,} bytes")
        if not unpacker.eof:
            raise ValueError("its compressed content ends in the middle")
        return memoryview(unpacked)

    def _elements(self, data: memoryview) -> list[tuple[int, memoryview]]:
        """Returns (type, bytes) of the elements that follow one another."""
        found = []
        at = 0
        while at + 8 <= len(data):
            first, second = struct.unpack_from(f"{self._order}II", data, at)
            if first >> 16:  # a small element: both in one word, and at most four bytes after it
                kind, size, start = first & 0xFFFF, first >> 16, at + 4
                if size > 4:
                    raise ValueError(f"a small element of {size} bytes")
                at += 8
            else:
                kind, size, start = first, second, at + 8
                at = start + size
                if kind != _COMPRESSED:
                    at += -size % 8
            if start + size > len(data):
                raise ValueError("an element ends beyond its place")
            found.append((kind, data[start : start + size]))
        return found

    def _matrix(self, data: memoryview, depth: int) -> tuple[str, Any]:
        """Returns the name and value of an array."""
        if depth > _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} arrays inside one another")
        if not len(data):
            return "", np.empty(0)  # a cell that nothing was put in
        (_, flags), (_, sizes), (_, name), *parts = self._elements(data)
        (word,) = struct.unpack_from(f"{self._order}I", flags)
        kind, marks = word & 0xFF, word >> 8 & 0xFF
        shape = tuple(np.frombuffer(sizes, f"{self._order}i4").tolist())
        count = math.prod(shape)
        if len(shape) < 2 or min(shape) < 0 or count > len(data) or marks & _COMPLEX:
            raise ValueError(f"an array of the sizes {list(shape)} in {len(data):,} bytes, or of complex numbers")
        if kind == _CELL:
            values = self._inner(parts, count, depth)
        elif kind == _STRUCT:
            values = self._structures(parts, count, depth)
        elif kind == _CHAR:
            return bytes(name).decode(), self._texts(parts[0], shape)
        elif kind in _CLASSES:
            numbers = self._numbers(parts[0], count).astype(bool if marks & _LOGICAL else _CLASSES[kind])
            return bytes(name).decode(), _squeezed(numbers, shape)
        else:
            raise ValueError(f"an array of class {kind}: only numbers, texts, cells and structures are read")
        objects = np.empty(count, dtype=object)
        for index, value in enumerate(values):
            objects[index] = value
        return bytes(name).decode(), _squeezed(objects, shape)

    def _inner(self, parts: list[tuple[int, memoryview]], count: int, depth: int) -> list[Any]:
        """Returns the values of arrays that stand in another one."""
        if len(parts) != count or any(kind != _MATRIX for kind, _ in parts):
            raise ValueError(f"{len(parts)} parts of an array of {count}")
        return [self._matrix(data, depth + 1)[1] for _, data in parts]

    def _structures(self, parts: list[tuple[int, memoryview]], count: int, depth: int) -> list[dict[str, Any]]:
        (_, longest_name), (_, names), *values = parts
        (longest,) = struct.unpack_from(f"{self._order}i", longest_name)
        if longest < 1:
            raise ValueError(f"names of {longest} letters")
        fields = [bytes(names[at : at + longest]).split(b"\0")[0].decode() for at in range(0, len(names), longest)]
        read = self._inner(values, count * len(fields), depth)
        width = len(fields)
        return [dict(zip(fields, read[at * width : (at + 1) * width], strict=True)) for at in range(count)]

    def _texts(self, part: tuple[int, memoryview], shape: tuple[int, ...]) -> Any:
        """Returns a text, or one for each row."""
        kind, data = part
        order = {"<": "-le", ">": "-be"}[self._order] if kind in (17, 18, 4) else ""
        letters = bytes(data).decode(_TEXTS[kind] + order)
        count = math.prod(shape)
        if len(letters) != count or len(shape) > 2:
            raise ValueError(f"{len(letters)} letters for the sizes {list(shape)}")
        rows = ["".join(letters[row :: shape[0]]) for row in range(shape[0])]
        return rows[0] if len(rows) == 1 else np.array([row.rstrip() for row in rows], dtype=object)

    def _numbers(self, part: tuple[int, memoryview], count: int) -> NDArray[Any]:
        kind, data = part
        numbers = np.frombuffer(data, self._order + _NUMBERS[kind])
        if len(numbers) != count:
            raise ValueError(f"{len(numbers)} numbers for {count} places")
        return numbers


def _squeezed(values_N: NDArray[Any], shape: tuple[int, ...]) -> Any:
    """Returns values that stand column by column as an array without dimensions of length one, or the only one."""
    if not len(values_N):
        return values_N
    squeezed = values_N.reshape(shape, order="F").squeeze()
    return squeezed[()] if squeezed.ndim == 0 else squeezed
