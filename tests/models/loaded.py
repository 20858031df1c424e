"""Layouts' files with the values of their tensors, read once and changed in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from massl_bench.models.content import Content
from massl_bench.models.files import open_content
from massl_bench.models.reading import load_all

State = dict[str, torch.Tensor]

_loaded: dict[Path, Content] = {}


def loaded(path: Path) -> Content:
    """Returns a file with its tensors' values, read once: containers are copies, tensors must not be changed."""
    if path not in _loaded:
        content = open_content(path)
        _loaded[path] = content.with_tree(load_all(content.tree, "x"))
    return with_states(_loaded[path], dict)


def with_states(content: Content, change: Callable[[State], State]) -> Content:
    """Returns a file with other state dicts, wherever they lie in it."""

    def walked(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return change(value) if is_state(value) else {key: walked(each) for key, each in value.items()}

    return content.with_tree(walked(content.tree))


def is_state(value: Any) -> bool:
    """Returns whether a value is a state dict: a container of tensors by name."""
    named = isinstance(value, dict) and bool(value)
    return named and all(isinstance(key, str) and isinstance(each, torch.Tensor) for key, each in value.items())


def states_of(value: Any) -> list[State]:
    """Returns the state dicts inside nested containers."""
    if is_state(value):
        return [value]
    return [state for each in value.values() for state in states_of(each)] if isinstance(value, dict) else []
