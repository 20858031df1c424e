"""The zip archive that `torch.save` writes: its members as bytes at places of the file. Nothing is unpacked."""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

import torch

from massl_bench.core.errors import RequestError
from massl_bench.core.files import open_regular
from massl_bench.models.reading.bounds import LARGEST_DIRECTORY, DamagedError, shown
from massl_bench.models.reading.tensors import Source, Storage, read_into

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
PACKED = -2
"""In the place of a member that is compressed or encrypted, as torch writes the code of TorchScript only."""
_LONGEST_END = 22 + (1 << 16)
"""Bytes of a zip's end with its comment."""


def zip_members(source: Source) -> dict[str, Storage]:
    """Returns the files inside a zip archive by name, each as its bytes in it.

    Raises:
        RequestError: A member has a name or is packed as torch writes none.
        DamagedError: The archive is damaged.
    """
    try:
        with open_regular(source.path) as file:
            _check_directory(file, source.num_bytes)
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
            members: dict[str, Storage] = {}
            for info in infos:
                member = _member(source, file, info)
                if info.filename in members:
                    raise RequestError(f"{source.path}: refused: two members are called {member.name}")
                members[info.filename] = member
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, OverflowError) as error:
        raise DamagedError(str(error)) from None
    return members


def root_of(members: dict[str, Storage], path: Path) -> str:
    """Returns the folder of an archive that its pickle lies in.

    Raises:
        RequestError: It has no pickle, or several.
    """
    roots = [name.partition("/")[0] for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        inner = [name for name in members if re.search(r"\.(pth|pt|tar|bin|ckpt|safetensors|zip)$", name)]
        names = ", ".join(shown(name, 40) for name in [*inner, *members][:4]) or "nothing"
        advice = "; unpack it first" if inner else ""
        raise RequestError(f"{path}: not a checkpoint of torch: a zip archive with {names}{advice}")
    return roots[0]


def _member(source: Source, file: IO[bytes], info: zipfile.ZipInfo) -> Storage:
    name = shown(info.filename)
    if info.filename.startswith("/") or ".." in info.filename.split("/") or "\\" in info.filename:
        raise RequestError(f"{source.path}: refused: {name} in it leads out of the archive")
    file.seek(info.header_offset)
    header = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    name_length, extra_length = header[9], header[10]
    own_name = file.read(name_length).decode("utf-8" if info.flag_bits & 0x800 else "cp437", "replace")
    start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if header[0] != b"PK\x03\x04" or own_name != info.orig_filename:
        raise zipfile.BadZipFile("a member lies elsewhere")
    if start + info.compress_size > source.num_bytes:
        raise zipfile.BadZipFile("a member ends beyond the file")
    stored = (
        info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1 and info.file_size == info.compress_size
    )
    return Storage(source, name, torch.uint8, info.file_size, start if stored else PACKED, info.CRC)


def _check_directory(file: IO[bytes], num_bytes: int) -> None:
    """Raises `zipfile.BadZipFile` where the list of members, which is read at once, is longer than any checkpoint's."""
    file.seek(max(0, num_bytes - _LONGEST_END))
    content = file.read(_LONGEST_END)
    found = content.rfind(b"PK\x05\x06")
    if found < 0:
        raise zipfile.BadZipFile("it has no end")
    (size,) = struct.unpack_from("<I", content, found + 12)
    if size == 0xFFFFFFFF:
        large = content.rfind(b"PK\x06\x06", 0, found)
        if large < 0:
            raise zipfile.BadZipFile("it has no end")
        (size,) = struct.unpack_from("<Q", content, large + 40)
    if size > LARGEST_DIRECTORY:
        raise zipfile.BadZipFile(f"a list of members of {size:,} bytes")


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
        if member.start == PACKED:
            raise RequestError(f"{file}: refused: {member.name} in it is compressed or encrypted")
        crc = 0
        for at in range(0, member.num_bytes, len(buffer)):
            part = buffer[: min(len(buffer), member.num_bytes - at)]
            read_into(part, file, member.start + at, checked=False)
            crc = zlib.crc32(part, crc)
        if crc != member.crc:
            raise RequestError(f"{file}: damaged: {member.name} does not have its checksum")
