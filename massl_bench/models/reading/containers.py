"""The containers of tensors: torch's zip, the one that it wrote before 1.6, and safetensors. Nothing is unpacked."""

from __future__ import annotations

import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from massl_bench.core.errors import RequestError
from massl_bench.core.files import open_regular
from massl_bench.models.reading.bounds import DamagedError, RefusedError, Stream, shown
from massl_bench.models.reading.machine import Machine
from massl_bench.models.reading.tensors import LazyTensor, Source, StandIn, Storage, read_into
from massl_bench.models.reading.values import CALLS, STORAGES, named

Container = Literal["zip", "legacy", "safetensors", "torchscript"]

_LARGEST_PICKLE = 256 << 20
_LARGEST_DIRECTORY = 16 << 20
"""Of a zip or a safetensors file: a hundred thousand tensors."""
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")


@dataclass(frozen=True)
class Content:
    """What a file holds.

    Attributes:
        container: how it is packed.
        value: nested plain values.
        asked: how often each name was asked for.
        unknown: how many values a stand-in had to replace, by the name that makes them.
    """

    container: Container
    value: Any
    asked: dict[str, int]
    unknown: dict[str, int]


class _World:
    """The storages of a file, as its pickle names them."""

    def __init__(self, source: Source, place: Callable[[Storage], None] | None) -> None:
        self.source, self._place = source, place
        self.storages: dict[str, Storage] = {}
        self._views: dict[tuple[str, int, int], Storage] = {}

    def named(self, qualified: str) -> Any:
        return named(qualified)

    def call(self, qualified: str) -> Callable[..., Any] | None:
        return CALLS.get(qualified, _no_call if qualified in STORAGES else None)

    def persistent(self, identity: Any) -> Any:
        if not isinstance(identity, tuple) or not identity:
            raise DamagedError("something outside the pickle that is no storage")
        kind, *rest = identity
        if kind == "module":  # of a whole network: the class, its file and its text, which is not read
            return rest[0]
        if kind != "storage" or len(rest) not in (4, 5):
            raise DamagedError("something outside the pickle that is no storage")
        cls, key, _, count = rest[:4]
        dtype = STORAGES.get(cls.name) if isinstance(cls, StandIn) else None
        if dtype is None or not isinstance(key, str) or type(count) is not int or not 0 <= count < 1 << 62:
            raise DamagedError("a storage of another kind")
        storage = self.storages.get(key)
        if storage is None:
            storage = Storage(self.source, f"storage {shown(key)}", dtype, count * dtype.itemsize)
            if self._place is not None:
                self._place(storage)
            self.storages[key] = storage
        return storage if len(rest) == 4 or rest[4] is None else self._view(storage, key, rest[4])

    def _view(self, storage: Storage, key: str, view: Any) -> Storage:
        raise RefusedError("it was written by torch before 0.4 (views of storages): save it again with a newer one")


def _no_call(*_: Any) -> Any:
    raise DamagedError("a storage that is made of nothing")


def read_content(path: Path) -> Content:
    """Returns what a file of torch or safetensors holds; executes nothing, reads no tensor's values.

    Raises:
        RequestError: It is none, is damaged, or asks for code; the text is one line.
        OSError: It cannot be read.
    """
    with open_regular(path) as file:
        source = Source.of(path)
        first = file.read(512)
    if first.startswith(b"PK\x03\x04"):
        return _read_zip(source)
    if first[257:262] == b"ustar":
        raise RequestError(
            f"{path}: a tar archive: torch before 0.1.10 wrote checkpoints so, and they are not read; load it with the "
            "torch that wrote it and save it again, or unpack the archive if it holds checkpoints"
        )
    if _begins_safetensors(first, source.num_bytes):
        return _read_safetensors(source)
    if first.startswith(b"\x80"):
        return _read_legacy(source)
    raise DamagedError("its first bytes are of no checkpoint")


# The zip of torch.save: NAME/data.pkl, NAME/data/KEY, stored as they are.


def _read_zip(source: Source) -> Content:
    members = zip_members(source)
    roots = [name.partition("/")[0] for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        names = ", ".join(shown(name, 40) for name in list(members)[:4]) or "nothing"
        inner = [name for name in members if re.search(r"\.(pth|pt|tar|bin|ckpt|safetensors|zip)$", name)]
        advice = "; unpack it first" if inner else ""
        raise RequestError(f"{source.path}: not a checkpoint of torch: a zip archive with {names}{advice}")
    (root,) = roots
    if f"{root}/byteorder" in members and _bytes_of(members[f"{root}/byteorder"]) != sys.byteorder.encode():
        raise RequestError(
            f"{source.path}: written on a machine with another order of bytes; save it again on one like this"
        )

    def place(storage: Storage) -> None:
        key = storage.name.removeprefix("storage ")
        member = members.get(f"{root}/data/{key}")
        if member is None:
            raise DamagedError(f"its {storage.name} is not there")
        if member.num_bytes != storage.num_bytes:
            raise RefusedError(
                f"its {storage.name} is said to have {storage.num_bytes:,} bytes, and has {member.num_bytes:,}"
            )
        storage.start, storage.crc, storage.name = member.start, member.crc, member.name

    world = _World(source, place)
    machine = Machine(Stream(_bytes_of(members[f"{root}/data.pkl"])), world)
    value = machine.run()
    for storage in world.storages.values():
        storage.check()
    if f"{root}/constants.pkl" in members:
        return Content("torchscript", _script_tensors(value), dict(machine.asked), {})
    return Content("zip", value, dict(machine.asked), dict(machine.unknown))


def zip_members(source: Source) -> dict[str, Storage]:
    """Returns the files inside a zip archive by name, each as its bytes in it.

    Raises:
        RequestError: It is damaged, or one of a kind that torch does not write.
    """
    path = source.path
    members: dict[str, Storage] = {}
    try:
        with open_regular(path) as file:
            _check_directory(file, source.num_bytes)
            with zipfile.ZipFile(file) as archive:
                for info in archive.infolist():
                    name = info.filename
                    if name in members or name.startswith("/") or ".." in name.split("/") or "\\" in name:
                        raise RequestError(f"{path}: refused: an archive with the name {shown(name)} in it")
                    if (
                        info.compress_type != zipfile.ZIP_STORED
                        or info.flag_bits & 1
                        or info.file_size != info.compress_size
                    ):
                        raise RequestError(
                            f"{path}: refused: {shown(name)} in it is compressed, as torch writes nothing"
                        )
                    start = _start_of(file, info)
                    if start + info.file_size > source.num_bytes:
                        raise zipfile.BadZipFile("a member beyond the end")
                    members[name] = Storage(source, shown(name), torch.uint8, info.file_size, start, info.CRC)
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, OverflowError) as error:
        raise DamagedError(str(error)) from None
    return members


def _check_directory(file: Any, num_bytes: int) -> None:
    """Raises `zipfile.BadZipFile` where the list of members, which is read at once, is longer than any checkpoint's."""
    tail = min(num_bytes, 65_557)
    file.seek(num_bytes - tail)
    content = file.read(tail)
    found = content.rfind(b"PK\x05\x06")
    if found < 0 or found + 22 > len(content):
        raise zipfile.BadZipFile("no directory")
    (size,) = struct.unpack_from("<I", content, found + 12)
    if size == 0xFFFFFFFF:
        large = content.rfind(b"PK\x06\x06", 0, found)
        if large < 0 or large + 48 > len(content):
            raise zipfile.BadZipFile("no directory")
        (size,) = struct.unpack_from("<Q", content, large + 40)
    if size > _LARGEST_DIRECTORY:
        raise zipfile.BadZipFile(f"a directory of {size:,} bytes")


def _start_of(file: Any, info: zipfile.ZipInfo) -> int:
    file.seek(info.header_offset)
    header = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    name_length, extra_length = header[9], header[10]
    if header[0] != b"PK\x03\x04" or file.read(name_length) != info.orig_filename.encode("utf-8", "surrogateescape"):
        raise zipfile.BadZipFile("a member at another place")
    return int(info.header_offset + _LOCAL_HEADER.size + name_length + extra_length)


def _bytes_of(member: Storage) -> bytes:
    if member.num_bytes > _LARGEST_PICKLE:
        raise RefusedError(f"{member.name} in it has {member.num_bytes:,} bytes, more than any checkpoint's")
    return member.read().numpy().tobytes()


def verify_zip(file: Path) -> None:
    """Reads a zip archive of torch whole and compares every member with its checksum.

    Raises:
        RequestError: The file is no such archive, or damaged; the text is one line.
    """
    source = Source.of(file)
    try:
        members = zip_members(source)
    except DamagedError as error:
        raise RequestError(f"{file}: damaged: {error}") from None
    buffer = memoryview(bytearray(1 << 20))
    for member in members.values():
        crc = 0
        for at in range(0, member.num_bytes, len(buffer)):
            part = buffer[: min(len(buffer), member.num_bytes - at)]
            read_into(part, file, member.start + at, checked=False)
            crc = zlib.crc32(part, crc)
        if crc != member.crc:
            raise RequestError(f"{file}: damaged: {member.name} does not have its checksum")


def _script_tensors(value: Any) -> dict[str, LazyTensor]:
    """Returns the tensors of a TorchScript archive by the names that its state dict would have."""
    found: dict[str, LazyTensor] = {}
    left: list[tuple[str, Any]] = [("", value)]
    while left:
        prefix, module = left.pop()
        state = module.state if isinstance(module, StandIn) else module
        if not isinstance(state, dict):
            continue
        if len(found) + len(left) > 100_000:
            raise RefusedError("a network of more than 100,000 parts")
        for name, each in state.items():
            if isinstance(each, LazyTensor):
                found[f"{prefix}{name}"] = each
            elif isinstance(each, StandIn) and each.made:
                left.append((f"{prefix}{name}.", each))
    return found


# The container before torch 1.6: magic, protocol, system, the pickle, the keys of the storages, the storages.


def _read_legacy(source: Source) -> Content:
    import mmap

    with open_regular(source.path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = 0

        def pickled(world: _World) -> tuple[Any, Machine]:
            nonlocal at
            stream = Stream(content, at)
            machine = Machine(stream, world)
            value = machine.run()
            at = stream.tell()
            return value, machine

        world = _World(source, None)
        if pickled(world)[0] != _LEGACY_MAGIC or pickled(world)[0] != _LEGACY_PROTOCOL:
            raise DamagedError("a pickle, and not one of torch.save")
        system = pickled(world)[0]
        if isinstance(system, dict) and system.get("little_endian", True) != (sys.byteorder == "little"):
            raise RequestError(f"{source.path}: written on a machine with another order of bytes")
        value, machine = pickled(world)
        keys, _ = pickled(_World(source, None))
        _place_legacy(content, at, keys, world)
    return Content("legacy", value, dict(machine.asked), dict(machine.unknown))


def _place_legacy(content: Any, at: int, keys: Any, world: _World) -> None:
    if not isinstance(keys, list) or len(set(keys)) != len(keys) or set(keys) != set(world.storages):
        raise DamagedError("the storages are not those that its tensors need")
    for key in keys:
        storage = world.storages[key]
        (count,) = struct.unpack("<q", content[at : at + 8])
        if count * storage.dtype.itemsize != storage.num_bytes:
            raise DamagedError(f"{storage.name} has another length")
        storage.start = at + 8
        at = storage.start + storage.num_bytes
        if at > len(content):
            raise DamagedError("it ends before its last tensor")
        storage.check()
    if at != len(content):
        raise DamagedError("bytes are left over")


# safetensors: the length of a header, the header (JSON), the values.

_SAFE_TYPES = {
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


def _begins_safetensors(first: bytes, num_bytes: int) -> bool:
    return len(first) > 8 and first[8:9] == b"{" and struct.unpack("<Q", first[:8])[0] <= num_bytes - 8


def safetensors_header(source: Source) -> tuple[dict[str, Any], int]:
    """Returns (the header of a safetensors file, where the values begin), checked by its library.

    Raises:
        RequestError: It is damaged, or larger than any checkpoint's.
    """
    import json

    from safetensors import SafetensorError, safe_open

    with open_regular(source.path) as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > _LARGEST_DIRECTORY:
            raise RefusedError(f"its header has {length:,} bytes, more than any checkpoint's")
        header = file.read(length)
    try:
        with safe_open(source.path, framework="np"):
            pass  # it checks that the tensors lie beside each other and fill the file
        value = json.loads(header, object_pairs_hook=_unique)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise DamagedError(str(error)) from None
    return value, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in its header")
    return found


def _read_safetensors(source: Source) -> Content:
    header, start = safetensors_header(source)
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype = _SAFE_TYPES.get(entry["dtype"])
        storage = Storage(source, shown(name), dtype or torch.uint8, end - begin, start + begin)
        shape = tuple(entry["shape"])
        if dtype is None:
            tensors[name] = LazyTensor(None, torch.uint8, shape, (), 0, problem=str(entry["dtype"]))
        else:
            tensors[name] = storage.tensor(None, shape, _row_major(shape), 0)
            storage.check()
    return Content("safetensors", tensors, {}, {})


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    steps, step = [], 1
    for size in reversed(shape):
        steps.append(step)
        step *= max(size, 1)
    return tuple(reversed(steps))
