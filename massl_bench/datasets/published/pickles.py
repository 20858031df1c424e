"""Pickles of arrays, read without running what they may contain.

A pickle calls what it names, and sets the state of what it was given. Numpy's own types are no safer than other code:
a dtype takes the flags that a pickle gives it, and then reads any bytes as pointers; an array takes any size. So the
pickle gets stand-ins, which keep what they are told, and the arrays are made of that afterwards.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import read_regular

_NUMBERS = re.compile(r"[<>|=]?(b1|[biuf][1248])")
_MEMO_OPCODES = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


class _DType:
    """Stands for `numpy.dtype`: the type of whole numbers, real numbers or truth values."""

    def __init__(self, code: str, *_: Any) -> None:
        if not _NUMBERS.fullmatch(code):
            raise pickle.UnpicklingError(f"it contains an array of {code!r}, and only arrays of numbers are read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *parts = state[:5]
        if parts != [None, None, None]:
            raise pickle.UnpicklingError("it contains an array of records, and only arrays of numbers are read")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for an array, `array` being what it holds; as large as its bytes in the file, whatever they say."""

    array: NDArray[Any]
    __hash__ = None  # type: ignore[assignment]  # no key of a dictionary and in no set, where it would stay

    def __init__(self, *_: Any) -> None:
        """Takes the arguments of numpy's `_reconstruct`, which say nothing: the state follows."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        self.array = _values(content, dtype).reshape(shape, order="F" if fortran else "C")

    @classmethod
    def of_buffer(
        cls, content: bytes, dtype: _DType, shape: Any, order: Literal["C", "F", "K"], axes: Any = None
    ) -> _Array:
        """Stands for numpy's `_frombuffer`, which protocol 5 calls."""
        made = cls()
        values = _values(content, dtype)
        made.array = values.reshape(shape).transpose(axes) if order == "K" else values.reshape(shape, order=order)
        return made


def _values(content: bytes | str, dtype: _DType) -> NDArray[Any]:
    """Returns the values of bytes, which pickles of Python 2 hold as a string, [N]."""
    return np.frombuffer(content.encode("latin1") if isinstance(content, str) else content, dtype.dtype)


class _ArrayUnpickler(pickle.Unpickler):
    """Gives stand-ins for what arrays and numbers are made of, and refuses everything else: a pickle can hold code.

    Functions are bound methods: a pickle could set the defaults of any other function that it is given.
    """

    def find_class(self, module: str, name: str) -> Any:
        match module.replace("numpy._core", "numpy.core"), name:
            case "numpy", "dtype":
                return _DType
            case "numpy", "ndarray":
                return name  # only an argument of _reconstruct
            case "numpy.core.multiarray", "_reconstruct":
                return _Array
            case "numpy.core.numeric", "_frombuffer":
                return _Array.of_buffer
            case "numpy.core.multiarray", "scalar":
                return self._number
            case "_codecs", "encode":
                return self._encoded
            case "__builtin__" | "builtins", "bytes":
                return self._no_bytes
        raise pickle.UnpicklingError(f"it contains {module}.{name}, and only arrays and plain containers are read")

    def _number(self, dtype: _DType, content: bytes | str) -> float:
        """Stands for numpy's `scalar`; returns a number of Python's."""
        return _values(content, dtype).item()  # type: ignore[no-any-return]

    def _encoded(self, text: str, _: str) -> bytes:
        """Stands for `codecs.encode`, by which protocols 0 to 2 write bytes: as latin1."""
        return str.encode(text, "latin1")

    def _no_bytes(self) -> bytes:
        """Stands for `bytes`, by which protocols 0 to 2 write those of an empty array."""
        return b""


def _with_arrays(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    """Returns a value with arrays in the place of their stand-ins, lists and dictionaries being changed in place.

    Args:
        value: any part of the content.
        done: (before, after) by the id of what was before, which must live for its id to be its own.
    """
    if id(value) in done:
        return done[id(value)][1]
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, list):
        done[id(value)] = value, value
        value[:] = [_with_arrays(item, done) for item in value]
    elif isinstance(value, dict):
        done[id(value)] = value, value
        value.update({key: _with_arrays(item, done) for key, item in value.items()})
    elif isinstance(value, tuple):
        done[id(value)] = value, tuple(_with_arrays(item, done) for item in value)
        return done[id(value)][1]
    return value


def read_plain_pickle(path: Path) -> Any:
    """Returns the content of a pickle of plain containers, numbers, strings and arrays of numbers.

    Raises:
        RequestError: The file is not such a pickle; nothing of it was executed.
    """
    try:
        content = read_regular(path)
        # A part longer than the file ends the walk; an index would make the unpickler's table as long as it says.
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name in _MEMO_OPCODES and (argument or 0) > len(content):
                raise pickle.UnpicklingError(f"it counts {argument:,} parts in {len(content):,} bytes")
        return _with_arrays(_ArrayUnpickler(io.BytesIO(content), encoding="latin1").load(), {})
    except Exception as error:  # what a damaged file leads to can be any error
        raise RequestError(f"{path}: not read: {one_line(error)}") from None
