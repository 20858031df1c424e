"""Values of a file in a few words, whatever they are: cut in depth, number and length, and fit for a terminal."""

from __future__ import annotations

import argparse
import reprlib
from typing import Any

from massl_bench.models.reading.bounds import shown


class _Short(reprlib.Repr):
    def __init__(self, longest: int) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, longest, longest
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 8

    def repr_bytes(self, value: bytes, level: int) -> str:
        return repr(value[:40]) + ("…" if len(value) > 40 else "")

    repr_bytearray = repr_bytes

    def repr_str(self, value: str, level: int) -> str:
        return repr(value[: self.maxstring])

    def repr_Namespace(self, value: argparse.Namespace, level: int) -> str:
        return f"Namespace{self.repr_dict(vars(value), level)}"


def described(value: Any, longest: int = 80) -> str:
    """Returns a value of a checkpoint as text of at most `longest` characters, in one line."""
    return shown(_Short(longest).repr(value), longest)
