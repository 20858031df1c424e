"""WebDataset shards: tar files whose images are read where they lie, at random.

The tars are listed once, and the places of their images remembered. From then on shards are data like any other: an
epoch is one permutation of all images, ranks share it without overlap or padding, and a resumed run goes on at the
image. A sequential reader has only a shuffle buffer, whose content no checkpoint holds. The price is one read for each
image in place of a stream; against a folder of files it saves a file system the opening of each.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from typing_extensions import override

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import open_regular, read_memo, sha256_of, stat_signature, write_memo
from massl_bench.core.printable import printable
from massl_bench.datasets.images.decoding import EncodedImage
from massl_bench.datasets.layout import Layout
from massl_bench.datasets.left_out import LeftOut
from massl_bench.datasets.splits import ImageSplit
from massl_bench.datasets.table_labels import label_indices
from massl_bench.datasets.tars import list_tar

_LABEL = "cls"
_LISTING_VERSION = 2
_MOST_OPEN = 512
_NAMED_MISSING = 5


@dataclass(frozen=True)
class ShardLayout(Layout):
    """Tar files in the order of their pattern: one split, `all`."""

    shards: tuple[Path, ...]
    memo_dir: Path

    @override
    def files(self) -> list[Path]:
        return list(self.shards)

    @override
    def read(self, source: str) -> ImageSplit:
        return ShardSplit(self.shards, self.memo_dir)

    @override
    def left_out(self) -> LeftOut:
        found = zip(self.shards, _listings(self.shards, self.memo_dir), strict=True)
        return LeftOut.of(f"{name} in {shard.name}" for shard, listing in found for name in listing["left_out"])


def find_shards(pattern: str, memo_dir: Path) -> ShardLayout:
    """Returns the shards that a pattern names; all of them must be there.

    Args:
        pattern: a path of this machine's file system; `{000..146}` and `{a,b}` stand for several.
        memo_dir: where listings of tars are remembered.

    Raises:
        RequestError: A URL, a range that runs backwards, or a shard that is not there.
    """
    if "://" in pattern or pattern.startswith("pipe:"):
        raise RequestError(
            f"wds:{pattern}: expected tar files of a file system, as images are read at random places; copy the shards "
            "to a disk that all machines see"
        )
    shards = tuple(Path(path).expanduser() for path in expand_braces(pattern))
    missing = [str(shard) for shard in shards if not shard.is_file()]
    if missing:
        more = ", …" if len(missing) > _NAMED_MISSING else ""
        raise RequestError(
            f"wds:{pattern}: {len(missing)} of {len(shards)} shards not found: {', '.join(missing[:_NAMED_MISSING])}"
            f"{more}; expected a pattern like shards/train-{{000..146}}.tar, in quotes"
        )
    root = Path(os.path.commonpath([shard.absolute().parent for shard in shards]))
    return ShardLayout("shards", root, tuple(shard.absolute() for shard in shards), memo_dir)


def expand_braces(pattern: str) -> list[str]:
    """Returns the names that a pattern stands for, as a shell expands it: `{08..10}` is 08, 09, 10; `{a,b}` is a, b."""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None:
        return [pattern]
    parts = braces[1].split(",")
    if span := re.fullmatch(r"(\d+)\.\.(\d+)", braces[1]):
        first, last = span.groups()
        if int(first) > int(last):
            raise RequestError(f"wds:{pattern}: {braces[0]}: expected the smaller number first")
        padded = any(number.startswith("0") and number != "0" for number in (first, last))
        width = max(len(first), len(last)) if padded else 0
        parts = [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return [name for part in parts for name in expand_braces(f"{before}{part}{after}")]


class ShardSplit(ImageSplit):
    """The images of several tars, one tar after the other; `KEY.cls` is the class of the image `KEY.jpg`."""

    def __init__(self, shards: Sequence[Path], memo_dir: Path) -> None:
        self._shards = list(shards)
        listings = _listings(shards, memo_dir)
        counts = [len(listing["names"]) for listing in listings]
        self._shard_N = np.repeat(np.arange(len(shards)), counts)
        self._offset_N, self._size_N = (
            np.array([value for listing in listings for value in listing[key]], dtype=np.int64)
            for key in ("offsets", "sizes")
        )
        names = (name for listing in listings for name in listing["names"])
        self._names_N = np.array([name.encode("utf-8", "surrogateescape") for name in names], dtype=np.bytes_)
        self.labels, self.class_names = None, None
        classes = [value for listing in listings for value in listing["labels"]]
        if classes and len(classes) != len(self):
            raise RequestError(
                f"{shards[0].parent}: {len(classes)} of {len(self)} images have a .{_LABEL}; expected all or none"
            )
        if classes:
            self.labels, self.class_names = label_indices(np.array(classes, dtype=object), None, _LABEL)
        self._open: dict[int, BinaryIO] = {}
        self._pid = os.getpid()

    @override
    def __len__(self) -> int:
        return len(self._size_N)

    @override
    def encoded(self, indices: Sequence[int]) -> list[EncodedImage]:
        images: list[EncodedImage] = []
        for index in indices:
            file = self._file(int(self._shard_N[index]))
            file.seek(int(self._offset_N[index]))
            images.append(file.read(int(self._size_N[index])))
        return images

    def _file(self, shard: int) -> BinaryIO:
        if self._pid != os.getpid():  # a forked process would move the places at which its parent reads
            self._open, self._pid = {}, os.getpid()
        if shard not in self._open:
            if len(self._open) == _MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            self._open[shard] = open_regular(self._shards[shard])
        return self._open[shard]

    @override
    def locate(self, index: int) -> str:
        return printable(self.name(index))

    @override
    def name(self, index: int) -> str:
        member = self._names_N[index].decode("utf-8", "surrogateescape")
        return f"{self._shards[int(self._shard_N[index])].name}, {member}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}


def _listings(shards: Sequence[Path], memo_dir: Path) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(8) as pool:  # a shared disk answers several readers faster than one
        return list(pool.map(lambda shard: _listing(shard, memo_dir), shards))


def _listing(shard: Path, memo_dir: Path) -> dict[str, Any]:
    """Returns names, offsets and sizes of a tar's images, the labels, and the names of what else it holds.

    Remembered while the file stays.

    Raises:
        RequestError: The tar is damaged, compressed, or has two images under one key.
    """
    try:
        key = sha256_of([_LISTING_VERSION, str(shard.resolve()), *stat_signature(shard)])
        remembered = read_memo(memo_dir / "shards", key)
        if remembered is not None:
            return remembered
        listing = list_tar(shard)
    except RequestError:
        raise
    except OSError as error:
        raise RequestError(f"{printable(shard)}: cannot be read: {one_line(error)}; copy it again") from None
    except Exception as error:  # what a damaged header leads to can be any error
        raise RequestError(
            f"{printable(shard)}: not a whole uncompressed tar: {one_line(error)}; copy it again"
        ) from None
    write_memo(memo_dir / "shards", key, listing)
    return listing
