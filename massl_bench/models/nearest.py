"""Which layout a file nearly has, and what hinders: advice that works, because it was tried on the file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from massl_bench.core.errors import RequestError
from massl_bench.core.wording import asked
from massl_bench.models.adapter import Adapter, Rank
from massl_bench.models.adapters import adapters
from massl_bench.models.content import STATE_KEY, Content, Stored, kind_of, listed

Reader = Callable[[Content], tuple[Adapter, Collection[Stored]] | None]
"""Tells which adapter reads a file, with nothing left over, and what it takes of it; None for none."""

_COLOURS = 3


@dataclass(frozen=True, kw_only=True)
class _Near:
    """An adapter that reads a file once a prefix is another.

    Attributes:
        adapter: which.
        key: of the state dict.
        prefix: before the names, which hinders.
        wanted: what must stand in its place.
        alone: whether the others must go, and the names behind the prefix become a file of their own.
    """

    adapter: Adapter
    key: str
    prefix: str
    wanted: str = ""
    alone: bool = False


def nearest(content: Content, reader: Reader) -> str:
    """Returns why no adapter has a file, what hinders the nearest one, and what to do, in one line."""
    if not isinstance(content.tree, Mapping):
        return f"no backbone in this checkpoint: found a {kind_of(content.tree)}; expected a state dict"
    for key in content.keys:
        read = reader(content.part(key)) if content.names(key) else None
        if read is not None:
            adapter, _ = read
            return (
                f"no adapter has this layout as a whole; under the key {key} lies {adapter.summary}: "
                f"{asked('checkpoint_key', key)} takes it"
            )
    found = advice(content, reader)
    return f"no adapter has this layout: {found}" if found is not None else _unknown(content)


def advice(content: Content, reader: Reader) -> str | None:
    """Returns behind which prefix a network lies that none knows, and how to save it; None where none is seen."""
    places = [(key, prefix) for key in ("", *content.keys) for prefix in _prefixes(content, key)]
    near = next(_of_the_whole(content, places, reader), None)
    if near is None:
        alone = list(_alone(content, places, reader))
        if len(alone) > 1:
            where = " and ".join(f"{each.prefix} (key {each.key})" if each.key else each.prefix for each in alone)
            return (
                f"networks lie behind the prefixes {where}, and none knows which is meant: save the one that is, "
                "without its prefix, as a state dict"
            )
        near = alone[0] if alone else None
    return None if near is None else _words(near)


def _words(near: _Near) -> str:
    place = f"under the key {near.key}, " if near.key else ""
    start = f"{place}a network lies behind the prefix {near.prefix}, which none knows; nearest: {near.adapter.name}"
    if near.wanted:
        return (
            f"{start} ({near.adapter.summary}), which expects it behind {near.wanted}: save the tensors with "
            f"{near.wanted} in place of {near.prefix} at the beginning of their names"
        )
    which = "of the names that begin with it, as a state dict" if near.alone else "in the same place; others stay"
    without = f"{{name.removeprefix({near.prefix!r}): tensor …}}"
    return f"{start} ({near.adapter.summary}); save them without it: {without} {which}"


def _of_the_whole(content: Content, places: list[tuple[str, str]], reader: Reader) -> Iterator[_Near]:
    """Yields the layouts that a file as a whole has with a prefix gone, or with another in its place.

    A plain network is one only where nothing lies beside it.
    """
    for key, prefix in places:
        adapter = _reading(content, key, prefix, "", reader)
        around_all = all(name.startswith(prefix) for name in content.names(key))
        if adapter is not None and (around_all or adapter.rank > Rank.PLAIN):
            yield _Near(adapter=adapter, key=key, prefix=prefix)
    layouts = list(_expected(content))
    twins = tuple(twin for *_, each in layouts for twin in each if twin)
    for key, prefix in places:
        if any(twin.startswith(prefix) for twin in twins):
            continue  # of any layout: it does not hinder, and the twin is not what is meant
        for expected, wanted, _ in layouts:
            if prefix != wanted and _reading(content, key, prefix, wanted, reader, expected) is expected:
                yield _Near(adapter=expected, key=key, prefix=prefix, wanted=wanted)


def _reading(  # one trial
    content: Content, key: str, prefix: str, to: str, reader: Reader, expected: Adapter | None = None
) -> Adapter | None:
    """Returns the adapter that reads a file with another prefix, and takes what lies behind it and nothing else."""
    changed = _renamed(content, key, prefix, to)
    if changed is None or (expected is not None and not expected.matches(changed)):
        return None
    read = reader(changed)
    behind = {id(tensor) for name, tensor in content.state(key).items() if name.startswith(prefix)}
    return read[0] if read is not None and behind.issuperset(map(id, read[1])) else None


def _alone(content: Content, places: list[tuple[str, str]], reader: Reader) -> Iterator[_Near]:
    """Yields what lies behind prefixes and is a file by itself; of prefixes in one another, the outermost."""
    done: list[tuple[str, str]] = []
    for key, prefix in places:
        names = {name: tensor for name, tensor in content.state(key).items() if name.startswith(prefix)}
        adapter = _reading(Content(file=content.file, tree=names), "", prefix, "", reader)
        if adapter is not None and not any(key == other and prefix.startswith(outer) for other, outer in done):
            done.append((key, prefix))
            yield _Near(adapter=adapter, key=key, prefix=prefix, alone=True)


def _prefixes(content: Content, key: str) -> list[str]:
    """Returns the prefixes, of whole parts with the dot, behind which networks of images begin; the shortest first.

    Such a network has one convolution with as many inputs as images have colours.
    """
    if content.problem(key) is not None:
        return []
    found: dict[str, None] = {}
    for name, tensor in content.state(key).items():
        shape = tuple(tensor.shape)
        if len(shape) == 4 and shape[1] == _COLOURS:
            parts = name.split(".")
            found |= dict.fromkeys(".".join(parts[:length]) + "." for length in range(1, len(parts)))
    return sorted(found, key=lambda prefix: (prefix.count("."), prefix))


def _expected(content: Content) -> Iterator[tuple[Adapter, str, tuple[str, ...]]]:
    """Yields methods' adapters, behind which prefix each expects the evaluated network, and its twins' prefixes."""
    for adapter in adapters().values():
        if adapter.rank > Rank.PLAIN:
            try:
                first, *twins = adapter.sets(content)
            except RequestError:  # one that knows a layout to refuse it
                continue
            if first.prefix:
                yield adapter, first.prefix, tuple(twin.prefix for twin in twins)


def _renamed(content: Content, key: str, prefix: str, to: str) -> Content | None:
    """Returns a file with another prefix in a state dict's names; None where two tensors would have one name."""
    state = content.state(key)
    names = {name: f"{to}{name.removeprefix(prefix)}" if name.startswith(prefix) else name for name in state}
    if len(set(names.values())) < len(names):
        return None
    path = key.split(STATE_KEY) if key else []
    tree = _put(content.tree, path, {names[name]: tensor for name, tensor in state.items()})
    return content.with_tree(tree)


def _put(tree: Any, path: list[str], value: Any) -> Any:
    return {**tree, path[0]: _put(tree[path[0]], path[1:], value)} if path else value


def _unknown(content: Content) -> str:
    states = {key: names for key in ("", *content.keys) if (names := content.names(key))}
    known = ", ".join(adapters())
    if states:
        key, names = max(states.items(), key=lambda item: len(item[1]))
        place = f" under the key {key}" if key else ""
        return (
            f"the architecture cannot be inferred from its tensors{place} ({listed(sorted(names))}); no adapter has "
            f"this layout: {known}"
        )
    found = f"the keys {listed(content.keys, 8)}" if content.keys else "nothing in it"
    return (
        f"no backbone in this checkpoint: found {found}; expected a state dict, or one under teacher, "
        f"state_dict, model; adapters: {known}"
    )
