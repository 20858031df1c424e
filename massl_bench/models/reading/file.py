"""A checkpoint, open: what it holds, in plain values; its tensors are read when they are asked for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import what_it_is
from massl_bench.models.reading.bounds import RefusedError, children, shown, would_run
from massl_bench.models.reading.containers import Container, read_content, safetensors_header
from massl_bench.models.reading.tensors import LazyTensor, Source, StandIn, load

_EXTRA_STATE = "_extra_state"


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """A file of tensors, read without executing anything.

    Attributes:
        path: as it was given.
        container: how it is packed.
        content: nested plain values; a tensor is a `LazyTensor`, what is no plain value a `StandIn`.
        globals: how often each name was asked for by the file's pickle.
        stand_ins: how many values are stand-ins, by the name of what they stand for.
        metadata: what a safetensors file says of itself.
        num_bytes: its length.
    """

    path: Path
    container: Container
    content: Any
    globals: Mapping[str, int]
    stand_ins: Mapping[str, int]
    metadata: Mapping[str, str]
    num_bytes: int


def open_checkpoint(file: Path) -> CheckpointFile:
    """Returns what a checkpoint holds; reads no tensor's values, and executes nothing.

    Raises:
        RequestError: It is no checkpoint, is damaged, or asks for code; the text is one line.
    """
    try:
        content = read_content(file)
        metadata = _metadata(file) if content.container == "safetensors" else {}
    except RequestError:
        raise
    except OSError as error:
        raise RequestError(f"{file}: cannot be read: {error.strerror or one_line(error)}") from None
    except RefusedError as error:
        raise RequestError(f"{file}: refused: {error}") from None
    except Exception:  # damaged bytes raise nearly anything
        kind = "a safetensors file" if file.suffix == ".safetensors" else "a checkpoint of torch"
        raise RequestError(f"{file}: not {kind}, or a damaged one: it is {what_it_is(file)}") from None
    if (file.suffix == ".safetensors") != (content.container == "safetensors"):
        raise RequestError(
            f"{file}: its name says {'safetensors' if file.suffix == '.safetensors' else 'a checkpoint of torch'}, its "
            f"content is {'safetensors' if content.container == 'safetensors' else 'a checkpoint of torch'}; rename it"
        )
    if isinstance(content.value, StandIn):
        raise RequestError(f"{file}: refused: {would_run(content.value.name)}")
    return CheckpointFile(
        path=file,
        container=content.container,
        content=content.value,
        globals=content.asked,
        stand_ins=content.unknown,
        metadata=metadata,
        num_bytes=file.stat().st_size,
    )


def _metadata(file: Path) -> Mapping[str, str]:
    found = safetensors_header(Source.of(file))[0].get("__metadata__") or {}
    return {str(key): str(value) for key, value in found.items()}


def state_dict(value: Any, where: str) -> dict[str, LazyTensor] | None:
    """Returns `value` as a state dict; None where it is none, having no tensors or other things besides.

    Names that end in `_extra_state` and hold no tensor are left out: see `extra_state`.

    Args:
        value: a part of a checkpoint's content.
        where: for messages, as `FILE: key teacher`.

    Raises:
        RequestError: It is one but for a key that is no text or a value that is not read, which is named.
    """
    if not isinstance(value, Mapping):
        return None
    tensors = {name: each for name, each in value.items() if isinstance(each, LazyTensor)}
    left = [name for name in value if name not in tensors and name not in extra_state(value)]
    if not tensors or (left and len(left) >= len(tensors)):
        return None
    for name in tensors:
        if not isinstance(name, str):
            raise RequestError(f"{where}: a state dict with the key {shown(repr(name))}; expected names")
    strange = [name for name in left if isinstance(value[name], StandIn)]
    if strange:
        raise RequestError(
            f"{where}: refused: {shown(strange[0])} in it is a {shown(value[strange[0]].name)}, and only tensors "
            "are read; nothing was executed"
        )
    if left:
        return None
    needed = sum(each.nbytes for each in tensors.values())
    held = sum({id(s): s.num_bytes for s in (each.storage for each in tensors.values()) if s is not None}.values())
    if needed > 4 * held + (1 << 20):  # tied weights are stored once; a million tensors on one storage are an attack
        raise RequestError(f"{where}: refused: its tensors need {needed:,} bytes, and the file has {held:,} for them")
    return tensors


def extra_state(value: Mapping[Any, Any]) -> list[str]:
    """Returns the names in a state dict under which a module keeps what is no tensor."""
    return [
        name
        for name, each in value.items()
        if isinstance(name, str) and name.rpartition(".")[2] == _EXTRA_STATE and not isinstance(each, LazyTensor)
    ]


def load_all(value: Any) -> Any:
    """Returns a copy of a checkpoint's content with the values of all its tensors; stand-ins stay.

    Raises:
        RequestError: As `load`.
    """
    tensors: dict[int, LazyTensor] = {}
    seen: set[int] = set()
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, LazyTensor):
            tensors[id(each)] = each
        elif id(each) not in seen:
            seen.add(id(each))
            left.extend(children(each))
    loaded = load({str(key): tensor for key, tensor in tensors.items()}, "the file", measurable=False)
    return _filled(value, {key: loaded[str(key)] for key in tensors}, {})


def _filled(value: Any, loaded: Mapping[int, Tensor], done: dict[int, Any]) -> Any:
    if isinstance(value, LazyTensor):
        return loaded[id(value)]
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, dict):
        done[id(value)] = copy = {}
        copy.update({key: _filled(each, loaded, done) for key, each in value.items()})
        return copy
    if isinstance(value, list):
        items: list[Any] = []
        done[id(value)] = items
        items.extend(_filled(each, loaded, done) for each in value)
        return items
    if isinstance(value, tuple):
        done[id(value)] = tuple(_filled(each, loaded, done) for each in value)
        return done[id(value)]
    if isinstance(value, argparse.Namespace):
        done[id(value)] = space = argparse.Namespace()
        vars(space).update(_filled(vars(value), loaded, done))
        return space
    return value
