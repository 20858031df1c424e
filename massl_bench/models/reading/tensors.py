"""Tensors as a file describes them, and their values: read when they are asked for, checked, each storage once."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import stat_signature
from massl_bench.core.printable import printable

MEASURABLE = frozenset(
    {
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    }
)
"""Types of the values of weights that can be computed with as they are."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_MOST_VALUES = 1 << 48
"""Of a tensor, and of one in which a size is zero, would it be one: torch counts no further than 2⁶³ bytes."""
_CHUNK = 1 << 20
_PARALLEL = 4 << 20
"""Bytes from which several threads go through them: below, starting them takes longer."""


class StandIn:
    """What is said in a file of something that is not read: a class, a function, or an object of one. It does nothing.

    Attributes:
        name: module and name.
        made: whether it stands for what a call of that name would return, not for the name itself.
        args: of the call.
        state: that the object was given.
        items: that were put into it; pairs for a dictionary.
    """

    __slots__ = ("args", "items", "made", "name", "state")

    def __init__(self, name: str, *, made: bool = False, args: tuple[Any, ...] = ()) -> None:
        self.name, self.made, self.args = name, made, args
        self.state: Any = None
        self.items: list[Any] = []

    def __repr__(self) -> str:
        return f"{self.name}(…)" if self.made else self.name


@dataclass(frozen=True, eq=False)
class Source:
    """A file whose bytes are read, and what it was when it was opened.

    Attributes:
        path: of the file.
        signature: what it was.
        compared: whether its bytes were compared with its checksums already, when it was this file.
    """

    path: Path
    signature: tuple[int, ...]
    compared: bool = False

    @classmethod
    def of(cls, path: Path, *, compared: bool = False) -> Source:
        """Returns the source that a file is now."""
        return cls(path, stat_signature(path), compared)

    @property
    def num_bytes(self) -> int:
        """The length of the file."""
        return self.signature[0]

    def check_unchanged(self) -> None:
        """Raises `RequestError` where the file is another one by now."""
        if stat_signature(self.path) != self.signature:
            raise RequestError(f"{self.path}: it changed while it was read; try again when it is whole")


@dataclass(eq=False)
class Storage:
    """Bytes of a file that tensors lie in.

    Attributes:
        source: the file.
        name: for messages.
        dtype: of its numbers, unless a tensor says otherwise.
        num_bytes: its length.
        start: its place in the file.
        crc: its checksum, where the file keeps one.
    """

    source: Source
    name: str
    dtype: torch.dtype
    num_bytes: int = -1
    start: int = -1
    crc: int | None = None
    tensors: list[LazyTensor] = field(default_factory=list, repr=False)

    def tensor(
        self, dtype: torch.dtype | None, shape: tuple[int, ...], stride: tuple[int, ...], offset: int
    ) -> LazyTensor:
        """Returns a tensor in this storage."""
        made = LazyTensor(self, dtype or self.dtype, shape, stride, offset)
        self.tensors.append(made)
        return made

    def check(self) -> None:
        """Raises `RequestError` where a tensor is said to be larger than this storage, or the file, can hold."""
        for tensor in self.tensors:
            if len(tensor.shape) != len(tensor.stride):
                raise RequestError(f"{self.source.path}: damaged: a tensor has more sizes than steps")
            if prod(max(size, 1) for size in tensor.shape) > _MOST_VALUES:
                raise RequestError(f"{self.source.path}: refused: a tensor of shape {list(tensor.shape)}")
            last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True))
            ends = (tensor.offset + last + 1) * tensor.dtype.itemsize if tensor.numel() else 0
            if ends > self.num_bytes or tensor.nbytes > self.source.num_bytes:
                raise RequestError(
                    f"{self.source.path}: refused: a tensor of shape {list(tensor.shape)} needs "
                    f"{max(ends, tensor.nbytes):,} bytes, and the file has {self.num_bytes:,} for it"
                )

    def read(self) -> Tensor:
        """Returns the bytes, uint8 [N].

        Raises:
            RequestError: They are not what their checksum says, or not there.
        """
        content = torch.empty(self.num_bytes, dtype=torch.uint8)
        checked = self.crc is not None and not self.source.compared
        found = read_into(content.numpy().data, self.source.path, self.start, checked)
        if checked and found != self.crc:
            raise RequestError(f"{self.source.path}: damaged: {self.name} does not have its checksum; fetch it again")
        return content


def read_into(buffer: memoryview, path: Path, start: int, checked: bool) -> int | None:
    """Fills `buffer` with the bytes from `start`; returns their CRC-32 where it is asked for.

    Raises:
        RequestError: The file ends before.
    """
    crc, at = 0, 0
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while at < len(buffer):
            count = file.readinto(buffer[at : at + _CHUNK])
            if not count:
                raise RequestError(f"{path}: it ends before its last tensor: it was cut, or is being written")
            if checked:
                crc = zlib.crc32(buffer[at : at + count], crc)
            at += count
    return crc if checked else None


@dataclass(eq=False)
class LazyTensor:
    """A tensor as its file describes it.

    Attributes:
        storage: where its values lie; None where it has none that can be read.
        dtype: of the values.
        shape: sizes.
        stride: steps between values, of each size, in values.
        offset: of the first value in the storage, in values.
        problem: why it cannot be loaded whatever its type; None where it can.
    """

    storage: Storage | None
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    problem: str | None = None

    def __repr__(self) -> str:
        return f"tensor {str(self.dtype).removeprefix('torch.')} {list(self.shape)}"

    def numel(self) -> int:
        """Returns the number of values."""
        return prod(self.shape)

    @property
    def ndim(self) -> int:
        """The number of sizes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of its values, were each stored once."""
        return self.numel() * self.dtype.itemsize

    @property
    def flaw(self) -> str | None:
        """Why it cannot be measured; None where it can."""
        if self.problem is not None or self.storage is None:
            return self.problem or "without values"
        return None if self.dtype in MEASURABLE else str(self.dtype).removeprefix("torch.")

    def load(self) -> Tensor:
        """Returns the values, on the CPU; see `load`."""
        return load({"": self}, "the file")[""]


def load(tensors: Mapping[str, LazyTensor], where: str, *, measurable: bool = True) -> dict[str, Tensor]:
    """Returns the values of tensors, on the CPU; those that share their storage in the file share it in memory.

    Args:
        tensors: by name.
        where: for messages.
        measurable: whether a type that no weights have (complex, bool, float8) is an error.

    Raises:
        RequestError: Some cannot be measured, are damaged, or are larger than their file.
    """
    flawed = {name: flaw for name, each in tensors.items() if (flaw := each.flaw) and (measurable or each.problem)}
    if flawed:
        some = ", ".join(f"{printable(name[:80])} ({flaw})" for name, flaw in list(flawed.items())[:4])
        more = f", … {len(flawed)} in all" if len(flawed) > 4 else ""
        raise RequestError(f"{where}: tensors that cannot be measured: {some}{more}; expected floating-point numbers")
    storages = {id(each.storage): each.storage for each in tensors.values() if each.storage is not None}
    try:
        content = _read_all(list(storages.values()))
    except OSError as error:
        raise RequestError(f"{where}: cannot be read: {error.strerror or one_line(error)}") from None
    return {name: _view(each, content[id(each.storage)]) for name, each in tensors.items()}


def _read_all(storages: list[Storage]) -> dict[int, Tensor]:
    sources = {id(each.source): each.source for each in storages}.values()
    for source in sources:
        source.check_unchanged()
        needed = sum(each.num_bytes for each in storages if each.source is source)
        if needed > source.num_bytes:  # the same bytes under many names
            raise RequestError(
                f"{source.path}: refused: its tensors need {needed:,} bytes, and it has {source.num_bytes:,}"
            )
    read = _of_each(Storage.read, storages, sum(each.num_bytes for each in storages))
    for source in sources:
        source.check_unchanged()
    return {id(each): content for each, content in zip(storages, read, strict=True)}


def _of_each(function: Callable[[_Item], _Result], items: Sequence[_Item], num_bytes: int) -> list[_Result]:
    """Returns what a function makes of each item, by several threads where there are many bytes to go through."""
    if num_bytes < _PARALLEL:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def _view(tensor: LazyTensor, content: Tensor) -> Tensor:
    empty = torch.empty(0, dtype=tensor.dtype)
    return empty.set_(content.untyped_storage(), tensor.offset, tensor.shape, tensor.stride)


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Returns the hex sha256 of tensors: their names, types, shapes and values, whatever file they came from."""
    names = sorted(tensors)
    hashes = _of_each(_hash, [tensors[name] for name in names], sum(tensor.nbytes for tensor in tensors.values()))
    described = [
        [name, str(tensors[name].dtype).removeprefix("torch."), list(tensors[name].shape), found]
        for name, found in zip(names, hashes, strict=True)
    ]
    return hashlib.sha256(json.dumps(described, separators=(",", ":")).encode()).hexdigest()


def _hash(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
