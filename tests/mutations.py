"""Damage to files, by a seed: what a disk, a copy that was cut off, or somebody's editor does to them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

ROUNDS = int(os.environ.get("MASSL_BENCH_FAULTS", "1"))
"""How many times as many mutations as a quick run makes: `MASSL_BENCH_FAULTS=20 tox -e faults` is the whole of it."""


def flips(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yields `count` × ROUNDS copies in which one bit is another one."""
    rng = np.random.default_rng(seed)
    for _ in range(count * ROUNDS):
        changed = bytearray(content)
        changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
        yield bytes(changed)


def mutations(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yields `count` × ROUNDS damaged copies: bits, bytes and digits changed, pieces cut, doubled, moved or zeroed."""
    rng = np.random.default_rng(seed)
    for _ in range(count * ROUNDS):
        changed = bytearray(content)
        start = int(rng.integers(len(changed)))
        end = min(len(changed), start + int(rng.integers(1, 40)))
        piece = bytes(changed[start:end])
        match int(rng.integers(7)):
            case 0:
                changed[start] ^= 1 << int(rng.integers(8))
            case 1:
                changed[start] = int(rng.integers(256))
            case 2:
                digits = [place for place, value in enumerate(changed) if 48 <= value <= 57]
                if digits:
                    place = digits[int(rng.integers(len(digits)))]
                    changed[place] = 48 + (changed[place] - 48 + int(rng.integers(1, 10))) % 10
            case 3:
                del changed[start:end]
            case 4:
                del changed[start:]
            case 5:
                changed[start:start] = piece
            case _:
                changed[start:end] = bytes(len(piece))
        if changed != content:
            yield bytes(changed)
