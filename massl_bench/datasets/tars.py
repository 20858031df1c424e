"""The members of a tar: where its images lie, their labels, and what else there is."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from massl_bench.core.errors import RequestError
from massl_bench.core.files import open_regular
from massl_bench.core.printable import printable
from massl_bench.datasets.images.decoding import image_suffixes
from massl_bench.datasets.left_out import is_document, is_ignored

_LABEL = "cls"
_LONGEST_LABEL = 4096
"""Bytes."""


class _Content(NamedTuple):
    """Where the bytes of a member lie in the file."""

    offset: int
    size: int


def list_tar(shard: Path) -> dict[str, Any]:
    """Returns what a tar holds, as lists: `names`, `offsets` and `sizes` of its images, `labels`, and `left_out`.

    The image `N.input.jpg` and the label `N.cls` are of one item, as WebDataset has it; beside `N.jpg` itself, it is
    something else (a mask, …), and left out. A hard link is the image that it leads to; several tars that were joined
    to one file are one tar.

    Raises:
        RequestError: Two images have one key.
        Exception: What tarfile raises for a damaged file.
    """
    images: dict[str, tuple[str, _Content]] = {}
    labels: dict[str, tuple[str, str]] = {}
    others: list[str] = []
    known: dict[str, _Content] = {}
    with open_regular(shard) as file:
        size = file.seek(0, 2)
        for member in _members(file, others):
            folder, _, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")
            key = f"{folder}/{stem}"
            if member.isdir() or any(is_ignored(part) for part in member.name.split("/") if part != "."):
                continue
            content = known.get(_place(member.linkname)) if member.islnk() else _content(member)
            if content is None:
                others.append(member.name)
                continue
            if content.offset + content.size > size:
                raise tarfile.ReadError(f"{printable(member.name)} ends in the middle")
            known[_place(member.name)] = content
            if f".{name.rpartition('.')[2].lower()}" in image_suffixes():
                if key not in images:
                    images[key] = member.name, content
                    continue
                there = images[key][0]
                if _is_plain(there) == _is_plain(member.name):
                    raise RequestError(
                        f"{printable(shard)}: {printable(there)} and {printable(member.name)}: expected one image "
                        "under a key"
                    )
                if _is_plain(there):
                    others.append(member.name)
                else:
                    images[key] = member.name, content
                    others.append(there)
            elif suffix == _LABEL:
                labels[key] = member.name, _label(file, member.name, content)
            elif not is_document(name):
                others.append(member.name)
    return {
        "names": [name for name, _ in images.values()],
        "offsets": [content.offset for _, content in images.values()],
        "sizes": [content.size for _, content in images.values()],
        "labels": [labels[key][1] for key in images if key in labels],
        "left_out": others + [name for key, (name, _) in labels.items() if key not in images],
    }


def _content(member: tarfile.TarInfo) -> _Content | None:
    """Returns where a file's content lies; None for links, devices and pipes, and for files with holes left out."""
    return _Content(member.offset_data, member.size) if member.isreg() and not member.issparse() else None


def _is_plain(name: str) -> bool:
    """Tells whether a member is called as its key, with nothing but a suffix."""
    return name.rpartition("/")[2].count(".") == 1


def _place(name: str) -> str:
    return name.removeprefix("./").strip("/")


def _label(file: BinaryIO, name: str, content: _Content) -> str:
    if content.size > _LONGEST_LABEL:
        raise ValueError(f"{printable(name)}: a label of {content.size:,} bytes")
    before = file.tell()
    file.seek(content.offset)
    text = file.read(content.size)
    file.seek(before)
    return text.decode().strip()


def _members(file: BinaryIO, others: list[str]) -> Iterator[tarfile.TarInfo]:
    """Yields the members of every tar in a file, one tar after the other; what else is behind them joins the `others`.

    tarfile takes a damaged header for the end of a tar; the true end is a block of zeros.
    """
    start: int | None = 0
    while start is not None:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            reached = start
            while (member := tar.next()) is not None:
                if member.size < 0 or tar.offset <= reached:  # a size below nothing leads back, for ever
                    raise tarfile.ReadError(f"a header at byte {member.offset:,} leads back")
                reached = tar.offset
                yield member
                tar.members.clear()  # type: ignore[attr-defined]  # of a million images, each would be kept twice
            end = tar.offset
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no end at byte {end:,}")
        start = _after_zeros(file)
        if start is not None and not _is_header(file, start):
            others.append(f"{file.seek(0, 2) - start:,} bytes behind its end that are no tar")
            return


def _is_header(file: BinaryIO, at: int) -> bool:
    """Tells whether a block is, or was before it was damaged, the header of a member."""
    file.seek(at)
    block = file.read(tarfile.BLOCKSIZE)
    if block[257:262] == b"ustar":
        return True
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True


def _after_zeros(file: BinaryIO) -> int | None:
    """Returns the place of the next block that is not of zeros, from where the file stands; None where none is left."""
    while content := file.read(tarfile.BLOCKSIZE * 256):
        start = file.tell() - len(content)
        for at in range(0, len(content), tarfile.BLOCKSIZE):
            if any(content[at : at + tarfile.BLOCKSIZE]):
                return start + at
    return None
