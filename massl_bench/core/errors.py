"""Errors that a user can act on: each message says what was asked, what was found, what is allowed, what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from massl_bench.core.printable import printable


class MasslBenchError(Exception):
    """Base of every error that this package raises on purpose; its text is one line."""


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
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        advice = f"did you mean {' or '.join(near)}?"
    elif len(names) <= 12:
        advice = f"known: {', '.join(names) or 'none'}"
    else:
        advice = f"known: {', '.join(names[:8])}, … ({len(names)} in all)"
    return RequestError(f"unknown {kind} {name!r}; {advice}{f' ({hint})' if hint else ''}")


def one_line(error: Exception) -> str:
    """Returns an error's text in one line of at most 300 visible characters."""
    return printable(" ".join(str(error).split()))[:300] or type(error).__name__
