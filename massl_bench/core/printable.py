"""Names and texts of others, made safe to show: nothing of them reaches a terminal that is not a visible character."""

from __future__ import annotations

import os

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_JOINERS = "\u200c\u200d"
"""Without them some scripts, and many emoji, are spelled otherwise; they move nothing."""


def printable(text: str | bytes | os.PathLike[str]) -> str:
    r"""Returns a text, or the name of a file, in one line and without what a terminal or a reader could be fooled by.

    Control characters (escape sequences begin with one), line ends, spaces of other widths, marks that turn the
    direction of writing, invisible and unassigned characters are shown as backslash escapes. A byte that is not UTF-8
    is shown as `\xe9`, whether it comes as a byte or as the lone surrogate by which Python's file functions stand for
    it (PEP 383). Everything else, and a text that holds nothing of all this, stays as it is.
    """
    text = os.fspath(text)
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return _SHORT.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
