"""Class folders: `<split>/<class>/*.jpg`, in one order on every machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import RequestError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp"})


def subfolders(folder: Path) -> list[str]:
    """Returns the names of the folders in `folder` in sorted order, without hidden ones; none where it is absent."""
    with _readable(folder):
        if not folder.is_dir():
            return []
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def image_files(folder: Path) -> list[Path]:
    """Returns all images below `folder` in sorted order; none where it is absent.

    Links are followed, and a directory counts once, however many lead to it: a link to a directory above it has no end.
    What is hidden is no part of a dataset: file managers and editors keep copies there.

    Raises:
        RequestError: A folder cannot be read.
    """
    found = []
    visited = set()
    with _readable(folder):
        if not folder.is_dir():
            return []
        for directory, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
            status = Path(directory).stat()
            if (status.st_dev, status.st_ino) in visited:
                folders.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))  # which of two comes first
            found += [
                Path(directory, name)
                for name in names
                if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
            ]
    return sorted(found)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Raises `RequestError` where `folder`, or one below it, cannot be listed."""
    try:
        yield
    except OSError as error:
        raise RequestError(
            f"{error.filename or folder}: cannot be read: {error.strerror}; make it readable or move it away"
        ) from None


def _raise(error: OSError) -> NoReturn:
    """Makes `os.walk` stop where it would leave a folder out in silence."""
    raise error


def class_files(folder: Path) -> list[tuple[str, Path]]:
    """Returns (class, file) of every image, sorted by class, then by path.

    Raises:
        RequestError: A class folder is empty.
    """
    found = []
    for name in subfolders(folder):
        files = image_files(folder / name)
        if not files:
            raise RequestError(
                f"{folder / name}: no image in this class folder (looked for {', '.join(sorted(IMAGE_SUFFIXES))}); "
                "add its images or remove the folder"
            )
        found += [(name, path) for path in files]
    return found


def labelled_files(root: Path, folder: str, class_names: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Returns the images of one split's class folders, and their classes.

    Args:
        root: what the file names are relative to.
        folder: of the split, below `root`.
        class_names: in label order.

    Returns:
        N file names relative to `root`, and int64 labels [N].

    Raises:
        RequestError: A class folder is empty or unknown.
    """
    index = {name: number for number, name in enumerate(class_names)}
    files, labels = [], []
    for class_name, path in class_files(root / folder):
        if class_name not in index:
            raise RequestError(
                f"{root / folder}: class folder {class_name!r} has no counterpart in the training split; "
                f"its classes are {_some(class_names)}"
            )
        files.append(path.relative_to(root).as_posix())
        labels.append(index[class_name])
    return files, np.array(labels, dtype=np.int64)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", … ({len(names)} in all)" if len(names) > 5 else "")
