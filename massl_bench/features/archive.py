"""The arrays of an `.npz` file: each is looked at before it is read, and read only when it is asked for."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.arrays import first_not_finite
from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import open_regular, what_it_is
from massl_bench.core.printable import printable

_LARGE_BYTES = 1 << 26
"""Arrays from this size on may not be far smaller in the file."""

_LARGEST_RATIO = 100
"""Floating-point features shrink by a tenth, or threefold where most are zero."""

_VERSIONS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class ArrayHeader:
    """What a file says of an array."""

    member: str
    """Its name in the archive."""
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        """Returns type and shape, for messages."""
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class Archive:
    """The arrays of a file; every problem names the file and the array."""

    path: Path

    @cached_property
    def arrays(self) -> Mapping[str, ArrayHeader]:
        """What there is, by name.

        Raises:
            RequestError: No such file, no archive, or a damaged one; an array of Python objects, or one that says to be
                larger than what the archive holds of it, or to have shrunk more than features can.
        """
        try:
            with open_regular(self.path) as file:
                if not zipfile.is_zipfile(file):
                    raise self.problem(f"not an .npz file, or a damaged one: it is {what_it_is(self.path)}")
                with zipfile.ZipFile(file) as archive:
                    found: dict[str, ArrayHeader] = {}
                    for info in archive.infolist():
                        name = info.filename.removesuffix(".npy")
                        if name in found:
                            raise self.problem(f"{printable(name)}: is in the archive twice")
                        found[name] = self._header(archive, info)
                    return found
        except FileNotFoundError:
            raise self.problem("no such file") from None
        except RequestError:
            raise
        except Exception as error:  # damaged bytes raise nearly anything
            raise self.problem(f"not an .npz file of plain arrays: {one_line(error)}") from None

    def read(self, name: str) -> NDArray[Any]:
        """Returns one array; raises `RequestError` where its bytes are damaged or memory does not suffice."""
        try:
            header = self.arrays[name]
            with (
                open_regular(self.path) as file,
                zipfile.ZipFile(file) as archive,
                archive.open(header.member) as member,
            ):
                array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
                return array
        except MemoryError:
            raise self.problem(f"{name}: {self.arrays[name]} does not fit into this machine's memory") from None
        except Exception as error:  # damaged bytes raise nearly anything
            raise self.problem(f"{name}: damaged: {one_line(error)}") from None

    def problem(self, text: str) -> RequestError:
        """Returns the error that names the file."""
        return RequestError(text, field="features", found=printable(self.path))

    def features(self, name: str) -> NDArray[np.float32]:
        """Returns the array `name`, float32 [N, D] and finite."""
        header = self.arrays[name]
        if 0 in header.shape:
            raise self.problem(f"{name}: is empty: {header}")
        if len(header.shape) != 2 or not np.issubdtype(header.dtype, np.floating):
            raise self.problem(f"{name}: expected numbers [N, D] of a floating type, found {header}")
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused below
            features = self.read(name).astype(np.float32, copy=False)
        broken, first = first_not_finite(features)
        if broken:
            raise self.problem(f"{name}: {broken} rows are not finite, the first is row {first}")
        return features

    def integers(self, name: str, count: int | None, dims: tuple[int, ...] = (1,)) -> NDArray[Any]:
        """Returns the array `name` of whole numbers with `count` rows and one of the numbers of dimensions."""
        header = self.arrays[name]
        if len(header.shape) not in dims or not np.issubdtype(header.dtype, np.integer):
            shapes = " or ".join("[N]" if dim == 1 else "[N, C]" for dim in dims)
            raise self.problem(f"{name}: expected whole numbers {shapes}, found {header}")
        if count is not None and header.shape[0] != count:
            raise self.problem(f"{count} {name.replace('labels', 'features')}, but {header.shape[0]} {name}")
        return self.read(name)

    def strings(self, name: str) -> NDArray[np.str_]:
        """Returns the array `name` of strings, of any shape."""
        header = self.arrays[name]
        if header.dtype.kind != "U":
            raise self.problem(f"{name}: expected strings, found {header}")
        return self.read(name)

    def _header(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> ArrayHeader:
        shown = printable(info.filename.removesuffix(".npy"))
        with archive.open(info) as member:
            try:
                version = np.lib.format.read_magic(member)
            except ValueError:
                raise self.problem(f"{shown}: is no array (.npy) in an archive of arrays") from None
            if version not in _VERSIONS:
                raise self.problem(f"{shown}: an array of named fields; expected plain numbers")
            shape, _, dtype = _VERSIONS[version](member)
            begin = member.tell()
        if dtype.hasobject:
            raise self.problem(f"{shown}: an array of Python objects, which are not read: they could run anything")
        expected, size = math.prod(shape) * dtype.itemsize, info.file_size - begin
        if expected != size or min(shape, default=0) < 0:
            raise self.problem(f"{shown}: damaged: {dtype} {list(shape)} is {expected} bytes, the archive holds {size}")
        if size > _LARGE_BYTES and size > _LARGEST_RATIO * info.compress_size:
            raise self.problem(
                f"{shown}: {size >> 20} MB in {info.compress_size} bytes of the file, which no features shrink to; "
                "where they are what you mean, write them with np.savez, which does not compress"
            )
        return ArrayHeader(info.filename, dtype, shape)
