from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from massl_bench.core.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("train/猫/n01440764_10026.JPEG", "train/猫/n01440764_10026.JPEG"),
        ("two words", "two words"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\u009b31m"),
        ("a\nb\r\tc\x7f", r"a\nb\r\tc\x7f"),
        ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\u0085d"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("\u2066x\u2069\u200f\u061c", r"\u2066x\u2069\u200f\u061c"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("\U000e0041", r"\U000e0041"),
        ("नी\u200dव", "नी\u200dव"),
        (b"caf\xe9.jpg", r"caf\xe9.jpg"),
        (b"caf\xc3\xa9.jpg", "café.jpg"),
        ("caf\udce9.jpg", r"caf\xe9.jpg"),
        ("\ud800", r"\ud800"),
        (Path("a\x1bb"), r"a\x1bb"),
    ],
)
def test_shown(text: str | bytes | Path, shown: str) -> None:
    assert printable(text) == shown


@given(st.one_of(st.text(st.characters()), st.binary()))
def test_nothing_invisible_is_left(text: str | bytes) -> None:
    shown = printable(text)
    assert shown.replace("\u200c", "").replace("\u200d", "").isprintable()
    shown.encode()
    assert printable(shown) == shown
