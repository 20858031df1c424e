"""What a dataset's files contain, as one hash.

A file's content hash is remembered under its size, times and inode (as version control systems do), so that a second
run does not read a hundred gigabytes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from massl_bench.core.errors import RequestError
from massl_bench.core.files import MOST_BYTES, read_memo, sha256_file, sha256_of, stat_signature, write_memo
from massl_bench.core.printable import printable
from massl_bench.datasets.images.decoding import image_suffixes


def fingerprint_files(root: Path, files: Sequence[Path], memo_dir: Path, *, rehash: bool = False) -> str:
    """Returns the hex sha256 over the names (relative to `root`) and contents of `files`.

    Args:
        root: of the dataset.
        files: below it.
        memo_dir: where hashes are remembered.
        rehash: whether they are computed again all the same.

    Raises:
        RequestError: One of them cannot be read, as a link to a file that is gone, or is larger than any image.
    """
    names = [path.relative_to(root).as_posix() for path in files]
    try:
        states = [stat_signature(path) for path in files]
        _check_sizes(files, [size for size, *_ in states])
        place = str(root.resolve())
        signature = sha256_of([[place, name, *state] for name, state in zip(names, states, strict=True)])
        remembered = None if rehash else read_memo(memo_dir / "fingerprints", signature)
        if remembered is not None and isinstance(remembered.get("sha256"), str):
            return str(remembered["sha256"])
        with ThreadPoolExecutor(8) as pool:  # hashing releases the interpreter's lock
            contents = list(pool.map(sha256_file, files))
    except OSError as error:
        raise RequestError(
            f"{printable(str(error.filename or root))}: cannot be read: {error.strerror}; repair it, or remove it from "
            "the dataset"
        ) from None
    digest = sha256_of(list(zip(names, contents, strict=True)))
    write_memo(memo_dir / "fingerprints", signature, {"sha256": digest})
    return digest


def _check_sizes(files: Sequence[Path], sizes: Sequence[int]) -> None:
    """Raises `RequestError` for a file with an image's name that would take minutes to hours to hash."""
    images = image_suffixes()
    for path, size in zip(files, sizes, strict=True):
        if size > MOST_BYTES and path.suffix.lower() in images:
            raise RequestError(
                f"{printable(path)}: {size:,} bytes are more than an image has (at most {MOST_BYTES:,}); repair it, or "
                "remove it from the dataset"
            )
