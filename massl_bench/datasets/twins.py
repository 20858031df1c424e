"""Images of equal content: where each image is to find its own copies, an equal one beside it would count as a miss."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from massl_bench.core.errors import RequestError
from massl_bench.core.files import read_memo, sha256_file, sha256_of, write_memo
from massl_bench.core.printable import printable
from massl_bench.datasets.images.decoding import EncodedImage
from massl_bench.datasets.splits import ImageSplit

_HASHED_TOGETHER = 256


@dataclass(frozen=True)
class Distinct:
    """The images of a split without those that are equal to another one, byte by byte."""

    rows: tuple[int, ...]
    """Of each content the one whose name comes first; in the order of the split."""
    twins: tuple[str, ...]
    """The names of the others."""


def distinct_images(split: ImageSplit, fingerprint: str, memo_dir: Path) -> Distinct:
    """Returns which images of a split are distinct; remembered by the fingerprint of its dataset.

    Raises:
        RequestError: An image cannot be read.
    """
    key = sha256_of(["twins", fingerprint])
    remembered = read_memo(memo_dir / "twins", key)
    twins: Sequence[int] | None = remembered.get("rows") if remembered is not None else None
    if twins is None:
        twins = _twins(split)
        write_memo(memo_dir / "twins", key, {"rows": list(twins)})
    left_out = set(twins)
    names = sorted(split.name(row) for row in left_out)
    return Distinct(tuple(row for row in range(len(split)) if row not in left_out), tuple(map(printable, names)))


def _twins(split: ImageSplit) -> list[int]:
    """Returns the rows of the images whose content another one has, whose name comes first."""
    first: dict[str, int] = {}
    twins = []
    with ThreadPoolExecutor(8) as pool:  # hashing releases the interpreter's lock
        for start in range(0, len(split), _HASHED_TOGETHER):
            rows = range(start, min(start + _HASHED_TOGETHER, len(split)))
            try:
                hashes = list(pool.map(hash_of_file, split.encoded(rows)))
            except OSError as error:
                raise RequestError(
                    f"{printable(str(error.filename or split.locate(start)))}: cannot be read: {error.strerror}; "
                    "repair it, or remove it from the dataset"
                ) from None
            for row, content in zip(rows, hashes, strict=True):
                known = first.setdefault(content, row)
                if known == row:
                    continue
                keeps = min(known, row, key=split.name)
                first[content] = keeps
                twins.append(row if keeps == known else known)
    return sorted(twins)


def hash_of_file(encoded: EncodedImage) -> str:
    """Returns the hex sha256 of what is stored of an image: its file, or its pixels where there is none."""
    if isinstance(encoded, Path):
        return sha256_file(encoded)
    if isinstance(encoded, bytes):
        return hashlib.sha256(encoded).hexdigest()
    assert isinstance(encoded, np.ndarray)  # copies are made of these, and have none
    return sha256_of([list(encoded.shape), hashlib.sha256(encoded.tobytes()).hexdigest()])
