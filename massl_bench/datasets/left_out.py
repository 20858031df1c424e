"""What lies in a dataset's place and is not measured: counted and named, never dropped in silence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from massl_bench.core.printable import printable

_NAMED = 3

_OF_SYSTEMS = frozenset(
    {
        "@eadir",
        "@recycle",
        "@tmp",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "__macosx",
        "__pycache__",
        "desktop.ini",
        "ehthumbs.db",
        "icon\r",
        "lost+found",
        "system volume information",
        "thumbs.db",
    }
)
"""What file managers, network storage and archivers leave in folders: copies, thumbnails and settings of theirs."""

_DOCUMENTS = frozenset({".md", ".txt", ".rst", ".pdf", ".html", ".htm", ".log", ".bib", ".cff", ".md5", ".sha256"})
_METADATA = frozenset({"dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json"})
"""Of the `datasets` library, beside its data."""
_DOCUMENT_NAMES = frozenset({"readme", "license", "licence", "copying", "citation", "notice", "authors", "changelog"})


def is_ignored(name: str) -> bool:
    """Tells whether a file or folder is no part of any dataset by its name: hidden, or what systems leave there."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def is_document(name: str) -> bool:
    """Tells whether a file is for people, by its name: no data that could have been taken."""
    path = PurePath(name)
    return path.suffix.lower() in _DOCUMENTS or path.name.lower() in _DOCUMENT_NAMES or path.name in _METADATA


@dataclass(frozen=True)
class LeftOut:
    """What looks like data and is not taken."""

    count: int = 0
    first: tuple[str, ...] = ()
    """The first names, fit to be printed."""

    @classmethod
    def of(cls, names: Iterable[str]) -> LeftOut:
        """Returns what the names stand for, in their order."""
        found = list(names)
        return cls(len(found), tuple(printable(name) for name in found[:_NAMED]))

    def __add__(self, other: LeftOut) -> LeftOut:
        return LeftOut(self.count + other.count, (*self.first, *other.first)[:_NAMED])

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.first) else ""
        return f"{self.count:,} {'file' if self.count == 1 else 'files'} left out: {', '.join(self.first)}{more}"
