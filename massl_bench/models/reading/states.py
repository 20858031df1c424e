"""Sets of weights inside a checkpoint's content."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from massl_bench.core.errors import RequestError
from massl_bench.models.reading.bounds import children, shown
from massl_bench.models.reading.tensors import LazyTensor, StandIn, load

_EXTRA_STATE = "_extra_state"
_TIED = 4
"""How often the bytes of a file may be used at most, on average: weights that are tied are stored once."""


def state_dict(value: Any, where: str) -> dict[str, LazyTensor] | None:
    """Returns `value` as a state dict; None where it is none, having no tensors, or containers beside them.

    Names that end in `_extra_state` and hold no tensor are left out: see `extra_state`.

    Args:
        value: a part of a checkpoint's content.
        where: for messages, as `FILE: key teacher`.

    Raises:
        RequestError: It is one but for a key that is no text or a value that is not read, which is named; or it has
            more values than its file can hold.
    """
    if not isinstance(value, Mapping):
        return None
    tensors = {name: each for name, each in value.items() if isinstance(each, LazyTensor)}
    extra = extra_state(value)
    left = {name: each for name, each in value.items() if name not in tensors and name not in extra}
    if not tensors or len(left) >= len(tensors) or any(_is_container(each) for each in left.values()):
        return None
    for name, each in left.items():
        what = each.name if isinstance(each, StandIn) else type(each).__name__
        raise RequestError(
            f"{where}: refused: among its tensors {shown(name)} is a {shown(what)}, and only tensors are read; "
            "nothing was executed"
        )
    strange = next((name for name in tensors if not isinstance(name, str)), None)
    if strange is not None:
        raise RequestError(f"{where}: a state dict with the key {shown(strange)}, which is no name; expected names")
    _check_sizes(tensors, where)
    return tensors


def _is_container(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple | set | argparse.Namespace)


def _check_sizes(tensors: Mapping[str, LazyTensor], where: str) -> None:
    # A million tensors may lie on the same bytes of a small file, and a network of their shapes fills any memory.
    storages = {id(each.storage): each.storage for each in tensors.values() if each.storage is not None}.values()
    files = {id(storage.source): storage.source.num_bytes for storage in storages}.values()
    held = max(_TIED * sum(storage.num_bytes for storage in storages), sum(files))
    needed = sum(each.nbytes for each in tensors.values() if each.storage is not None)
    if needed > held:
        raise RequestError(f"{where}: refused: its tensors need {needed:,} bytes, and its file cannot hold them")


def extra_state(value: Mapping[Any, Any]) -> list[str]:
    """Returns the names in a state dict under which a module keeps what is no tensor."""
    return [
        name
        for name, each in value.items()
        if isinstance(name, str) and name.rpartition(".")[2] == _EXTRA_STATE and not isinstance(each, LazyTensor)
    ]


def load_all(value: Any, where: str) -> Any:
    """Returns a copy of a checkpoint's content with the values of all its tensors; stand-ins stay.

    Raises:
        RequestError: As `load`, but for types that no weights have.
    """
    tensors: dict[str, LazyTensor] = {}
    seen: set[int] = set()
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, LazyTensor):
            tensors[str(id(each))] = each
        elif id(each) not in seen:
            seen.add(id(each))
            left.extend(children(each))
    return _filled(value, load(tensors, where, measurable=False), {})


def _filled(value: Any, loaded: Mapping[str, Tensor], done: dict[int, Any]) -> Any:
    """Returns a copy of a value; its depth is bounded since it was read."""
    if isinstance(value, LazyTensor):
        return loaded[str(id(value))]
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, dict):
        done[id(value)] = copy = dict.fromkeys(value)
        copy.update({key: _filled(each, loaded, done) for key, each in value.items()})
        return copy
    if isinstance(value, list):
        done[id(value)] = items = list(value)
        items[:] = [_filled(each, loaded, done) for each in value]
        return items
    if isinstance(value, tuple):
        done[id(value)] = tuple(_filled(each, loaded, done) for each in value)
        return done[id(value)]
    if isinstance(value, argparse.Namespace):
        done[id(value)] = space = argparse.Namespace()
        vars(space).update(_filled(vars(value), loaded, done))
        return space
    return value
