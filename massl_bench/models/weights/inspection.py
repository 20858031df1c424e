"""A look inside a checkpoint file: what is in it, and what it would be taken for. Nothing in it is executed."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from massl_bench.core.errors import MasslBenchError
from massl_bench.core.files import sha256_file
from massl_bench.core.model_settings import ModelSettings
from massl_bench.models.assemble import feature_of, fed
from massl_bench.models.content import Content
from massl_bench.models.files import open_content
from massl_bench.models.loading import fill
from massl_bench.models.reading import LazyTensor, shown, state_dict
from massl_bench.models.reading.describing import described
from massl_bench.models.recognition import recognise
from massl_bench.models.weights.metadata import KEY, WeightsMetadata, parse_metadata

_MOST_VALUES = 200


@dataclass(frozen=True, kw_only=True)
class TensorGroup:
    """The tensors of a state dict whose names begin alike."""

    prefix: str
    num_tensors: int
    dtypes: tuple[str, ...]
    num_values: int
    largest: str
    """Name and shape of the one with the most values."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What lies under one of the file's keys."""

    key: str
    """Empty for a file that is a state dict itself."""
    kind: str
    """`state dict`, or the type."""
    groups: tuple[TensorGroup, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    """Of a container without tensors: what it holds by name, each cut at 80 characters."""
    text: str = ""
    """Of anything else, in short."""


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """What a file would be taken for, as far as that is known."""

    found: str | None = None
    """Where the backbone's tensors lie; None where there are none of a known layout."""
    adapter: str | None = None
    why: str | None = None
    """Whose files have this layout."""
    architecture: str | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where parts of the architecture came from: `heads`, `size`, …"""
    preprocessing: str | None = None
    """How images would be fed, and who says so."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """What would not be taken, by what it is."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers should know."""
    problem: str | None = None
    """Why `--model FILE` would refuse it; None where every tensor fits."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A file's content, and the encoder that would be built of it."""

    file: str
    num_bytes: int
    sha256: str
    container: str
    """`zip`, `legacy`, `safetensors` or `torchscript`."""
    pickled_globals: tuple[str, ...]
    """The names that its pickle asks for; none was imported."""
    stand_ins: Mapping[str, int]
    """How many values are not read, by what they are."""
    parts: tuple[Part, ...]
    metadata: WeightsMetadata | None
    """Of a file that this package exported."""
    backbone: Recognition


def inspect_checkpoint(path: Path, settings: ModelSettings | None = None) -> Inspection:
    """Reads a checkpoint safely and says what it holds; no network is filled with its tensors.

    Args:
        path: a file of torch or safetensors, or a directory with one.
        settings: what the user says of the model, as loading it would be told.

    Raises:
        RequestError: The file cannot be read, or would execute something.
    """
    content = open_content(path)
    tree, packing = content.tree, content.packing
    assert packing is not None
    if content.is_flat or not isinstance(tree, Mapping):
        parts = [_part("", tree)]
    else:
        parts = [_part(shown(key), value) for key, value in islice(tree.items(), _MOST_VALUES)]
    return Inspection(
        file=str(content.file),
        num_bytes=content.file.stat().st_size,
        sha256=sha256_file(content.file),
        container=packing.container,
        pickled_globals=tuple(map(shown, packing.globals)),
        stand_ins={shown(name): count for name, count in packing.stand_ins.items()},
        parts=tuple(parts),
        metadata=parse_metadata(content.metadata[KEY], content.file) if KEY in content.metadata else None,
        backbone=_recognise(content, settings if settings is not None else ModelSettings()),
    )


def _recognise(content: Content, settings: ModelSettings) -> Recognition:
    try:
        recognised = recognise(content, settings, "the file")
    except MasslBenchError as error:
        return Recognition(problem=str(error).removeprefix("the file: "))
    adapter = recognised.adapter
    known: dict[str, Any] = {
        "found": recognised.place,
        "adapter": adapter.name,
        "why": adapter.summary,
        "left_out": recognised.left_out_texts,
    }
    try:
        network = recognised.network()
        known |= {
            "architecture": network.architecture,
            "origins": {part: origin for part, origin in network.origins.items() if origin},
            "preprocessing": f"{network.preprocessing.describe()} ({network.preprocessing_origin})",
            "notes": network.notes,
        }
        assembled_network = fill(network, recognised.found.tensors, "the file")
        feature_of(assembled_network, network, settings, "the file")
        fed(network, settings, assembled_network, "the file")
    except MasslBenchError as error:
        return Recognition(problem=str(error).removeprefix("the file: "), **known)
    return Recognition(**known)


def _part(key: str, value: Any) -> Part:
    try:
        tensors, problem = state_dict(value, f"key {key}" if key else "the file"), ""
    except MasslBenchError as error:
        tensors, problem = None, f", {error}"
    if tensors is not None:
        return Part(key=key, kind="state dict", groups=_groups(tensors))
    if isinstance(value, LazyTensor):
        return Part(key=key, kind="tensor", groups=_groups({key: value}))
    kind = type(value).__name__
    inside = list(_tensors_in(value, set()))
    if inside:
        keys = f", keys {', '.join(map(shown, list(value)[:8]))}" if isinstance(value, Mapping) else ""
        return Part(key=key, kind=kind, text=f"{len(inside)} tensors, {_count(inside):,} values{keys}{problem}")
    named = vars(value) if isinstance(value, argparse.Namespace) else value
    if isinstance(named, Mapping):
        values = {shown(name): described(each) for name, each in islice(named.items(), _MOST_VALUES)}
        more = f"{len(named):,} entries" if len(named) > _MOST_VALUES else ""
        return Part(key=key, kind=kind, values=values, text=more)
    return Part(key=key, kind=kind, text=described(value))


def _groups(tensors: Mapping[str, LazyTensor]) -> tuple[TensorGroup, ...]:
    by_prefix: dict[str, dict[str, LazyTensor]] = {}
    for name, tensor in tensors.items():
        wrapped = "module." if name.startswith("module.") else ""
        prefix = wrapped + name.removeprefix(wrapped).partition(".")[0]
        by_prefix.setdefault(prefix, {})[name] = tensor
    return tuple(_group(prefix, members) for prefix, members in by_prefix.items())


def _group(prefix: str, members: Mapping[str, LazyTensor]) -> TensorGroup:
    largest = max(members, key=lambda name: members[name].numel())
    return TensorGroup(
        prefix=shown(prefix),
        num_tensors=len(members),
        dtypes=tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in members.values()})),
        num_values=_count(members.values()),
        largest=f"{shown(largest)} {list(members[largest].shape)}",
    )


def _tensors_in(value: Any, seen: set[int]) -> Iterator[LazyTensor]:
    """Yields the tensors inside nested containers, each container once: a file may hold one that holds itself."""
    if isinstance(value, LazyTensor):
        yield value
    elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
        seen.add(id(value))
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors_in(item, seen)


def _count(tensors: Iterable[LazyTensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
