"""Folders of images, and class folders `<split>/<class>/*.jpg`: in one order on every machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import RequestError
from massl_bench.core.printable import printable
from massl_bench.datasets.images.decoding import image_suffixes
from massl_bench.datasets.left_out import is_document, is_ignored


def subfolders(folder: Path) -> list[str]:
    """Returns the names of the folders in `folder` in sorted order, but for those that are ignored; none if absent."""
    with _readable(folder):
        if not folder.is_dir():
            return []
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_ignored(entry.name))


def all_files(folder: Path) -> list[Path]:
    """Returns everything below `folder` that is no folder and not ignored, in sorted order; none where it is absent.

    Links are followed, and a directory counts once, however many lead to it.

    Raises:
        RequestError: A folder cannot be read, or a link leads to a folder that holds `folder`.
    """
    found: list[Path] = []
    with _readable(folder):
        if not folder.is_dir():
            return []
        waiting, visited = [folder], set()
        while waiting:
            directory = waiting.pop()
            status = directory.stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            inner = []
            with os.scandir(directory) as entries:
                for entry in entries:
                    if is_ignored(entry.name):
                        continue
                    if not entry.is_dir():
                        found.append(directory / entry.name)
                        continue
                    if entry.is_symlink():
                        check_link(directory / entry.name, folder)
                    inner.append(entry.name)
            waiting += [directory / name for name in sorted(inner, reverse=True)]  # which of two links comes first
    return sorted(found)


def check_link(link: Path, within: Path | None = None) -> None:
    """Raises `RequestError` where a link leads to a folder that holds the one that it is a part of.

    Args:
        link: any folder.
        within: the folder that it is a part of; the link itself, where it stands for such a folder.
    """
    if not link.is_symlink():
        return
    own = within.resolve() if within is not None else link.parent.resolve() / link.name
    target = link.resolve()
    if target in own.parents:
        raise RequestError(
            f"{printable(link)}: a link to {printable(target)}, which holds {printable(own)}: what lies there would be "
            "counted in here; remove the link"
        )


def is_image(path: Path) -> bool:
    """Tells whether a file is one of the images that can be read here, by its suffix."""
    return path.suffix.lower() in image_suffixes()


def image_files(folder: Path) -> list[Path]:
    """Returns all images below `folder` in sorted order; none where it is absent. Errors as of `all_files`."""
    return [path for path in all_files(folder) if is_image(path)]


def not_taken(root: Path, taken: Sequence[Path]) -> list[str]:
    """Returns the names, relative to `root`, of the files below it that look like data and are not `taken`."""
    known = set(taken)
    others = (path for path in all_files(root) if path not in known and not is_document(path.name))
    return [path.relative_to(root).as_posix() for path in others]


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Raises `RequestError` where `folder`, or one below it, cannot be listed."""
    try:
        yield
    except OSError as error:
        place = printable(str(error.filename or folder))
        raise RequestError(f"{place}: cannot be read: {error.strerror}; make it readable or move it away") from None


def class_files(folder: Path) -> list[tuple[str, Path]]:
    """Returns (class, file) of every image, sorted by class, then by path.

    Raises:
        RequestError: A class folder is empty, or a link leads out of it to another place of the same folder.
    """
    found = []
    for name in subfolders(folder):
        check_link(folder / name)
        there = all_files(folder / name)
        files = [path for path in there if is_image(path)]
        if not files:
            held = f"it holds {_some([path.name for path in there])}, and " if there else ""
            raise RequestError(
                f"{printable(folder / name)}: no image in this class folder: {held}images end in "
                f"{', '.join(sorted(image_suffixes()))}; add its images or remove the folder"
            )
        _check_own(folder, name, files)
        found += [(name, path) for path in files]
    return found


def _check_own(folder: Path, name: str, files: Sequence[Path]) -> None:
    """Raises `RequestError` where a folder that is a link brings another class's images in under this one."""
    split, own = folder.resolve(), folder.resolve() / name  # its own place, were it no link
    for inner in sorted({folder / name, *(path.parent for path in files)}):
        place = inner.resolve()
        if split in place.parents and own != place and own not in place.parents:
            raise RequestError(
                f"{printable(inner)}: leads to {printable(place)}, which is of another class; remove the link"
            )


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
    return with_labels(root, class_files(root / folder), folder, class_names)


def with_labels(
    root: Path, files: Sequence[tuple[str, Path]], folder: str, class_names: Sequence[str]
) -> tuple[list[str], NDArray[np.int64]]:
    """Returns what `class_files` found of a split as names and labels; arguments and errors as of `labelled_files`."""
    index = {name: number for number, name in enumerate(class_names)}
    unknown = next((name for name, _ in files if name not in index), None)
    if unknown is not None:
        raise RequestError(
            f"{printable(root / folder)}: class folder {printable(unknown)!r} has no counterpart in the "
            f"training split; its classes are {_some(class_names)}"
        )
    names = [path.relative_to(root).as_posix() for _, path in files]
    return names, np.array([index[name] for name, _ in files], dtype=np.int64)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:5])
    return shown + (f", … ({len(names)} in all)" if len(names) > 5 else "")
