"""The two containers of `torch.save`: a zip with a pickle in it, and before 1.6 pickles with storages after them."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable
from typing import IO, Any

from massl_bench.core.errors import RequestError
from massl_bench.core.files import open_regular
from massl_bench.models.reading.archive import PACKED, root_of, zip_members
from massl_bench.models.reading.bounds import LARGEST_PICKLE, DamagedError, RefusedError, Stream, shown
from massl_bench.models.reading.content import Content
from massl_bench.models.reading.machine import Machine
from massl_bench.models.reading.tensors import LazyTensor, Source, StandIn, Storage
from massl_bench.models.reading.values import CALLS, STORAGES, named

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MOST_PARTS = 100_000


class _World:
    """The storages of a file, as its pickle names them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.storages: dict[str, Storage] = {}

    def named(self, qualified: str) -> Any:
        return named(qualified)

    def call(self, qualified: str) -> Callable[..., Any] | None:
        return CALLS.get(qualified, _no_call if qualified in STORAGES else None)

    def persistent(self, identity: Any) -> Any:
        match identity:
            case ("module", cls, *_):  # of a whole network: its class; file and text of it are not looked at
                return cls
            case ("storage", StandIn(name=kind), str(key), _, int(count), *view) if kind in STORAGES and count >= 0:
                if view not in ([], [None]):
                    raise RefusedError("it was written by a torch before 0.4: load it with that and save it again")
                dtype = STORAGES[kind]
                storage = self.storages.get(key)
                if storage is None:
                    storage = Storage(self.source, f"storage {shown(key)}", dtype, count * dtype.itemsize)
                    self.storages[key] = storage
                return storage
        raise DamagedError("something outside the pickle that is no storage")


def _no_call(*_: Any) -> Any:
    raise DamagedError("a storage that is made of nothing")


def read_zip(source: Source) -> Content:
    """Returns what a zip archive of torch holds: NAME/data.pkl, and the storages NAME/data/KEY.

    Raises:
        RequestError: It is another archive, or written on another kind of machine.
        RefusedError: It asks for code, or says other sizes than it has.
        DamagedError: It is damaged; so does any other error but `OSError`.
    """
    members = zip_members(source)
    root = root_of(members, source.path)
    order = members.get(f"{root}/byteorder")
    if order is not None and _bytes_of(order) != sys.byteorder.encode():
        raise _other_order(source)
    world = _World(source)
    machine = Machine(Stream(io.BytesIO(_bytes_of(members[f"{root}/data.pkl"]))), world)
    value = machine.run()
    for key, storage in world.storages.items():
        member = members.get(f"{root}/data/{key}")
        if member is None:
            raise RefusedError(f"its {storage.name} is not there")
        if member.num_bytes != storage.num_bytes:
            sizes = f"{storage.num_bytes:,} bytes, and has {member.num_bytes:,}"
            raise RefusedError(f"its {storage.name} is said to have {sizes}")
        _check_stored(member)
        storage.start, storage.crc, storage.name = member.start, member.crc, member.name
        storage.check()
    if f"{root}/constants.pkl" in members:
        return Content(container="torchscript", value=_script_tensors(value), globals=machine.asked)
    return Content(container="zip", value=value, globals=machine.asked, stand_ins=machine.unknown)


def _check_stored(member: Storage) -> None:
    if member.start == PACKED:
        raise RefusedError(f"{member.name} in it is compressed or encrypted, as torch.save does not write it")


def _bytes_of(member: Storage) -> bytes:
    _check_stored(member)
    if member.num_bytes > LARGEST_PICKLE:
        raise RefusedError(f"{member.name} in it has {member.num_bytes:,} bytes, more than any checkpoint's")
    return member.read().numpy().tobytes()


def _other_order(source: Source) -> RequestError:
    return RequestError(f"{source.path}: written on a machine with another order of bytes; save it again on this one")


def _script_tensors(value: Any) -> dict[str, LazyTensor]:
    """Returns the tensors of a TorchScript archive by the names of its state dict; its code is not read."""
    found: dict[str, LazyTensor] = {}
    left: list[tuple[str, Any]] = [("", value)]
    for _ in range(_MOST_PARTS):
        if not left:
            return found
        prefix, module = left.pop()
        state = module.state if isinstance(module, StandIn) else None
        for name, each in state.items() if isinstance(state, dict) else ():
            if isinstance(each, LazyTensor):
                found[f"{prefix}{name}"] = each
            elif isinstance(each, StandIn) and each.made:
                left.append((f"{prefix}{name}.", each))
    raise RefusedError(f"a network of more than {_MOST_PARTS:,} parts")


def read_legacy(source: Source) -> Content:
    """Returns what a file of torch before 1.6 holds: a number, a version, a system, the content, and its storages.

    Raises:
        RequestError: It was written on another kind of machine.
        RefusedError: It asks for code.
        DamagedError: It is damaged; so does any other error but `OSError`.
    """
    world = _World(source)
    with open_regular(source.path) as file:
        stream = Stream(file)
        if Machine(stream, world).run() != _LEGACY_MAGIC or Machine(stream, world).run() != _LEGACY_PROTOCOL:
            raise DamagedError("a pickle, and not one of torch.save")
        system = Machine(stream, world).run()
        if isinstance(system, dict) and system.get("little_endian", True) != (sys.byteorder == "little"):
            raise _other_order(source)
        machine = Machine(stream, world)
        value = machine.run()
        keys = Machine(stream, _World(source)).run()
        _place_legacy(file, stream.tell(), keys, world)
    return Content(container="legacy", value=value, globals=machine.asked, stand_ins=machine.unknown)


def _place_legacy(file: IO[bytes], at: int, keys: Any, world: _World) -> None:
    """Finds the storages: each lies behind the number of its values, in the order of `keys`, up to the file's end."""
    if not isinstance(keys, list) or len(set(keys)) != len(keys) or set(keys) != set(world.storages):
        raise DamagedError("the storages are not those that its tensors need")
    for key in keys:
        storage = world.storages[key]
        file.seek(at)
        (count,) = struct.unpack("<q", file.read(8))
        if count * storage.dtype.itemsize != storage.num_bytes:
            raise DamagedError(f"its {storage.name} has another length")
        storage.start = at + 8
        at = storage.start + storage.num_bytes
        if at > world.source.num_bytes:
            raise DamagedError("it ends before its last tensor")
        storage.check()
    if at != world.source.num_bytes:
        raise DamagedError("bytes are left over")
