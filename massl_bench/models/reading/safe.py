"""safetensors files: the length of a header, the header (JSON), the values. There is no code in them."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from massl_bench.core.archive_hash import check_header_hash
from massl_bench.core.files import open_regular
from massl_bench.models.reading.bounds import LARGEST_DIRECTORY, DamagedError, RefusedError, shown
from massl_bench.models.reading.content import Content
from massl_bench.models.reading.tensors import LazyTensor, Source, Storage

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
"""Types of values by their names in a header; tensors of other types are named, and not read."""


def begins_safetensors(first: bytes, num_bytes: int) -> bool:
    """Returns whether a file with these first bytes, of this length, can be one."""
    return len(first) > 8 and first[8:9] == b"{" and struct.unpack("<Q", first[:8])[0] <= num_bytes - 8


def read_safetensors(source: Source) -> Content:
    """Returns the tensors of a file by name.

    Raises:
        RefusedError: Its header is longer than any checkpoint's.
        DamagedError: It is damaged.
        RequestError: This package wrote it, and not these bytes.
    """
    with open_regular(source.path) as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > LARGEST_DIRECTORY:
            raise RefusedError(f"its header has {length:,} bytes, more than any checkpoint's")
        header = file.read(length)
    try:
        _check_layout(source.path)
        entries = json.loads(header, object_pairs_hook=_unique)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise DamagedError(str(error)) from None
    metadata = entries.pop("__metadata__", None) or {}
    if not source.compared:
        check_header_hash(source.path)
    tensors = {name: _tensor(source, name, entry, 8 + length) for name, entry in entries.items()}
    return Content(container="safetensors", value=tensors, metadata=metadata)


def _check_layout(path: Path) -> None:
    """Raises `SafetensorError` where tensors do not lie beside each other and fill the file; the library looks."""
    # `FileNotFoundError` is what the library says of every file that it could not open.
    with suppress(FileNotFoundError), safe_open(path, framework="np"):
        return
    open_regular(path).close()  # raises the true reason, where there is one still
    with safe_open(path, framework="np"):
        pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in its header")
    return found


def _tensor(source: Source, name: str, entry: dict[str, Any], start: int) -> LazyTensor:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    dtype = _TYPES.get(entry["dtype"])
    if dtype is None:
        return LazyTensor(None, torch.uint8, shape, (), 0, problem=str(entry["dtype"]))
    storage = Storage(source, shown(name), dtype, end - begin, start + begin)
    tensor = storage.tensor(None, shape, _row_major(shape), 0)
    storage.check()
    return tensor


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    steps, step = [], 1
    for size in reversed(shape):
        steps.append(step)
        step *= max(size, 1)
    return tuple(reversed(steps))
