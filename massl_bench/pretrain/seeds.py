"""Random numbers of a pretraining, each a function of the seed, its purpose and its place.

No generator lives longer than a step: a resumed run draws what the uninterrupted one draws, on every rank, without any
generator's state in the checkpoint.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

# The first purposes have small numbers; a later one has its name's hash.
_PURPOSES = {
    "weights": 0,
    "memory": 1,
    "permutation": 2,
    "order": 3,
    "views": 4,
    "drop_path": 5,
    "holdout": 6,
}


def derived_seed(seed: int, purpose: str, *place: int) -> int:
    """Returns a seed in [0, 2^63) for one purpose at one place (step, rank, epoch, …)."""
    number = _PURPOSES.get(purpose)
    if number is None:
        number = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    words = np.random.SeedSequence([seed, number, *place]).generate_state(1, np.uint64)
    return int(words[0]) >> 1


def seeded_generator(seed: int, purpose: str, *place: int) -> torch.Generator:
    """Returns a generator on the CPU, started at `derived_seed`."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose, *place))
