"""A checkpoint's content as adapters see it: state dicts by key, without the prefixes that wrappers leave in names.

Nothing of a file is executed, and no tensor's values are read before they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import SEAL, parse_json, read_regular, unsealed
from massl_bench.models import reading
from massl_bench.models.reading import LazyTensor, shown

_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""What `torch.compile`, FSDP and activation checkpointing put into names, at the start and in the middle."""

WEIGHTS_HASH = "weights_sha256"
"""Of the file of weights, in a configuration that this package wrote, and that has a hash of its own content too."""

_LARGEST_CONFIG = 16 << 20
"""Bytes of a JSON file that is read; configurations are a few thousand."""

_ABSENT = object()

STATE_KEY = "/"
"""Between the keys of nested containers, in the `key` of a set of weights."""


Stored = LazyTensor | torch.Tensor
"""A tensor of a file, whose values may still lie there."""

StateDict = Mapping[str, Stored]


def load(tensors: StateDict, where: str) -> dict[str, torch.Tensor]:
    """Returns the values of tensors by name; what shares its bytes in the file is read once.

    Raises:
        RequestError: They are damaged, or no numbers of weights.
    """
    lazy = {name: stored for name, stored in tensors.items() if isinstance(stored, LazyTensor)}
    loaded = reading.load(lazy, where)
    return {name: loaded[name] if isinstance(stored, LazyTensor) else stored for name, stored in tensors.items()}


def is_stored(value: object) -> bool:
    """Returns whether a value of a file is a tensor."""
    return isinstance(value, torch.Tensor | LazyTensor)


def kind_of(value: object) -> str:
    """Returns what a value of a file is, for people."""
    return "tensor" if is_stored(value) else type(value).__name__


@dataclass(frozen=True, kw_only=True)
class Packing:
    """What a file is, but for its values.

    Attributes:
        container: `zip`, `legacy`, `safetensors` or `torchscript`.
        globals: the names that its pickle asks for.
        stand_ins: how many values are not read, by what they are; nothing of it was imported or executed.
    """

    container: str
    globals: tuple[str, ...]
    stand_ins: Mapping[str, int]


@dataclass(frozen=True)
class Content:
    """What is in a checkpoint file, and what lies beside it.

    Attributes:
        file: with the weights.
        tree: nested containers with tensors.
        metadata: the texts of a safetensors file's header.
        folder: whose JSON files belong to the weights; None where the file stands for itself.
        read: the other files that belong to it, and the JSON files that were looked for, there or not: their change
            makes another model.
        packing: how the tensors are packed, and what lies beside them; None where that is not known.
    """

    file: Path
    tree: Any
    metadata: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    read: list[Path] = field(default_factory=list)
    packing: Packing | None = None
    _states: dict[str, StateDict] = field(default_factory=dict, repr=False)
    _names: dict[str, frozenset[str]] = field(default_factory=dict, repr=False)
    _configs: dict[str, Mapping[str, Any] | None] = field(default_factory=dict, repr=False)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys at the top; none for a file that is a state dict itself."""
        if not isinstance(self.tree, Mapping) or self.is_flat:
            return ()
        return tuple(str(key) for key in self.tree)

    @cached_property
    def is_flat(self) -> bool:
        """Whether the file is one state dict."""
        return isinstance(self.tree, Mapping) and bool(self.tree) and all(map(is_stored, self.tree.values()))

    def has(self, *keys: str) -> bool:
        """Returns whether all these keys are there, at the top or (with `/`) inside."""
        return all(self._at(key) is not _ABSENT for key in keys)

    def names(self, key: str = "") -> frozenset[str]:
        """Returns the names of a key's state dict, without the prefixes of wrappers; none where it is not one."""
        if key not in self._names:
            self._names[key] = frozenset(self.state(key)) if problem_of(self._at(key)) is None else frozenset()
        return self._names[key]

    def any_under(self, prefix: str, key: str = "") -> bool:
        """Returns whether a name of a key's state dict begins with `prefix`, which ends in a dot."""
        return any(name.startswith(prefix) for name in self.names(key))

    def state(self, key: str = "") -> StateDict:
        """Returns a key's state dict, without the prefixes of wrappers.

        Raises:
            RequestError: There is none: the text says what is in its place.
        """
        if key not in self._states:
            value, where = self._at(key), f"key {key}" if key else "the file"
            reading.state_dict(value, where)  # refuses what cannot be, by name
            problem = problem_of(value)
            if problem is not None:
                raise RequestError(f"{where} is no state dict: {problem}")
            self._states[key] = unwrapped(value)
        return self._states[key]

    def problem(self, key: str) -> str | None:
        """Returns why there is no state dict under a key, in words; None where there is one."""
        return problem_of(self._at(key))

    def value(self, key: str) -> Any:
        """Returns what lies under a key; None where there is none."""
        found = self._at(key)
        return None if found is _ABSENT else found

    def part(self, key: str) -> Content:
        """Returns what lies under a key as if it were a file of its own, with the same files beside it."""
        return self.with_tree(self.value(key))

    def with_tree(self, tree: Any) -> Content:
        """Returns another content as if it lay in the same file, with the same files beside it."""
        return replace(self, tree=tree, _states={}, _names={})

    def json(self, name: str) -> Mapping[str, Any] | None:
        """Returns a JSON object that lies beside the weights (`config.json`, …); None where there is none.

        Raises:
            RequestError: It is there, and is no JSON object.
        """
        if self.folder is None:
            return None
        if name not in self._configs:
            path = self.folder / name
            self.read.append(path)
            self._configs[name] = _read_json(path) if path.is_file() else None
        return self._configs[name]

    def _at(self, key: str) -> Any:
        value = self.tree
        for part in key.split(STATE_KEY) if key else ():
            value = value.get(part, _ABSENT) if isinstance(value, Mapping) else _ABSENT
        return value


def problem_of(value: Any) -> str | None:
    """Returns why a value is no state dict, in words; None where it is one."""
    if value is _ABSENT:
        return "it is not there"
    if not isinstance(value, Mapping):
        return f"it is a {kind_of(value)}"
    if not value:
        return "it is empty"
    others = [name for name, item in value.items() if not is_stored(item)]
    if others:
        kind = kind_of(value[others[0]])
        more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
        return f"{shown(str(others[0]))} in it is no tensor, but {kind}{more}"
    return None


def unwrapped(state: Mapping[Any, Stored]) -> StateDict:
    """Returns a state dict without what wrappers put into names: whole parts of a path, never parts of a word.

    `module.` (DataParallel and its kin) goes from the start, where every name begins with it.

    Raises:
        RequestError: Two names become one.
    """
    named = {_without_wrappers(str(name)): tensor for name, tensor in state.items()}
    if len(named) < len(state):
        raise RequestError("two tensors have the same name but for the prefixes of wrappers: the file was put together")
    while named and all(name.startswith("module.") for name in named):
        named = {name.removeprefix("module."): tensor for name, tensor in named.items()}
    return named


def _without_wrappers(name: str) -> str:
    if "_" not in name:
        return name
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def listed(names: Iterable[str], most: int = 4) -> str:
    """Returns some of the names, and how many there are in all; what a terminal would act on is made visible."""
    found = list(names)
    first = ", ".join(shown(name) for name in found[:most])
    return f"{first}, … {len(found)} in all" if len(found) > most else first


def beginnings(names: Iterable[str]) -> str:
    """Returns how names begin, for messages: their first parts, the commonest first."""
    counted: dict[str, int] = {}
    for name in names:
        first = name.split(".")[0] + ("." if "." in name else "")
        counted[first] = counted.get(first, 0) + 1
    return listed(sorted(counted, key=lambda first: (-counted[first], first)))


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise ValueError("it is larger than a configuration")
        content = parse_json(read_regular(path))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: not a configuration in JSON: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise RequestError(f"{path}: expected a JSON object, found {type(content).__name__}")
    if SEAL in content or WEIGHTS_HASH in content:
        try:
            return unsealed(content)
        except ValueError as error:
            text = f"{path}: {error}: it was damaged, or changed by hand; if it was you, remove the entry {SEAL}"
            raise RequestError(text) from None
    return content
