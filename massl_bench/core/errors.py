"""Errors that a user can act on: each message says what was asked, what was found, what is allowed, what to do next."""

from __future__ import annotations

import re
import reprlib
import unicodedata
from collections.abc import Iterable
from os.path import commonprefix

from massl_bench.core.printable import printable
from massl_bench.core.wording import asked

_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxlist, _BRIEF.maxtuple, _BRIEF.maxdict = 3, 12, 12, 6
_BRIEF.maxstring = _BRIEF.maxother = 120

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class MasslBenchError(Exception):
    """Base of every error that this package raises on purpose; its text is one line.

    Attributes:
        where: the file, model or dataset that it is about.
        field: the setting that it is about, by its Python name.
        found: what it was given.
        allowed: what it can be.
        remedy: what to do next.
    """

    def __init__(
        self,
        text: str = "",
        *,
        where: object = None,
        field: str | None = None,
        found: object = None,
        allowed: str | None = None,
        remedy: str | None = None,
    ) -> None:
        """Composes the text: `WHERE: FIELD FOUND: TEXT; REMEDY`, with what is allowed where there is no `text`."""
        self.where, self.field, self.found, self.allowed, self.remedy = where, field, found, allowed, remedy
        about = [str(where)] if where is not None else []
        about += [asked(field, found)] if field is not None else []
        said = text or f"expected {allowed}"
        super().__init__(": ".join([*about, said]) + (f"; {remedy}" if remedy else ""))


class RequestError(MasslBenchError):
    """The request cannot be carried out, and this is known before any work starts (exit code 2, nothing written)."""


class SpecError(RequestError):
    """A TOML file of the registry is malformed; the text names the file and the key."""


class MissingDataError(RequestError):
    """A dataset is not on this machine and may not, or could not, be downloaded."""


class CellError(MasslBenchError):
    """One cell failed while it ran (exit code 1): nothing of it is kept, the other cells go on."""


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> RequestError:
    """Returns the error for a `name` that is none of the `known` ones, with the near names as suggestions."""
    names = sorted(known)
    alike = [each for each in names if look_alike(each, name)]
    if alike:
        advice = f"it looks like {alike[0]!r}, {how_they_differ(name, alike[0])}"
        return RequestError(f"unknown {kind} {name!r}", found=name, allowed=", ".join(names), remedy=advice)
    import difflib  # here, and not for every --help

    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        advice = f"did you mean {' or '.join(near)}?"
    elif len(names) <= 12:
        advice = f"known: {', '.join(names) or 'none'}"
    else:
        advice = f"known: {', '.join(names[:8])}, … ({len(names)} in all)"
    advice += f" ({hint})" if hint else ""
    return RequestError(f"unknown {kind} {name!r}", found=name, allowed=", ".join(names), remedy=advice)


def how_they_differ(name: str, other: str) -> str:
    """Returns in words where two names differ that may look the same: as code points, from the first other one on."""
    place = len(commonprefix((name, other)))  # noqa: RUF071  # letter by letter is what is meant
    here, there = (
        " ".join(f"U+{ord(character):04X}" for character in each[place : place + 2]) or "nothing"
        for each in (name, other)
    )
    return f"but has {here} where that has {there}"


def look_alike(name: str, other: str) -> bool:
    """Tells whether two different names are one to the eye: the same letters, composed in different ways."""
    return name != other and unicodedata.normalize("NFKC", name) == unicodedata.normalize("NFKC", other)


def shown(value: object) -> str:
    """Returns `repr` of what a file holds, cut to what a line has room for, however large or deep it is."""
    return printable(_BRIEF.repr(value))


def without_addresses(text: str) -> str:
    """Returns `text` without the memory addresses of objects (`<… object at 0x…>`), which no second run has."""
    return _ADDRESS.sub("", text)


def one_line(error: Exception) -> str:
    """Returns an error's text in one line of at most 300 characters, the same in every run.

    Of what the system refused, only why: who calls names the file, which can be called otherwise while it is written.
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(without_addresses(" ".join(text.split())))[:300] or type(error).__name__


def unforeseen(error: Exception) -> str:
    """Returns one line for an error that nobody meant to raise: what the system refused, or a defect."""
    if isinstance(error, OSError) and error.strerror:
        return f"{f'{printable(str(error.filename))}: ' if error.filename is not None else ''}{error.strerror}"
    text = f"unexpected {type(error).__name__}: {one_line(error)}"
    if isinstance(error, ImportError | MemoryError):
        text += "; is the memory of this process limited (ulimit -v), or an installation damaged? massl-bench doctor"
    return f"{text}; MASSL_BENCH_TRACEBACK=1 shows where"
