"""State dicts of a network alone: at the top of a file, or under a key that many trainers use."""

from __future__ import annotations

from collections.abc import Sequence

from massl_bench.models.adapter import Weights
from massl_bench.models.content import Content

_KEYS = ("", "state_dict", "model", "model_state_dict", "network", "backbone")
_PREFIXES = ("", "backbone.")


def plain_key(content: Content, marks: Sequence[str], keys: Sequence[str] = _KEYS) -> tuple[str, str] | None:
    """Returns (key, prefix) under which a file has the tensors called `marks`; None where it has them nowhere.

    One of them may be missing: a network with a tensor missing is refused by that tensor's name, not as unknown.
    """
    for key in keys:
        names = content.names(key)
        for prefix in _PREFIXES:
            if sum(f"{prefix}{mark}" in names for mark in marks) >= len(marks) - 1:
                return key, prefix
    return None


def plain_sets(content: Content, marks: Sequence[str], keys: Sequence[str] = _KEYS) -> tuple[Weights, ...]:
    """Returns the one set of weights of a file that `plain_key` knows."""
    found = plain_key(content, marks, keys)
    key, prefix = found if found is not None else ("", "")
    return (Weights(name=key or "state dict", key=key, prefix=prefix),)
