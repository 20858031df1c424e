"""A look inside a checkpoint file: what is in it, and what it would be taken for. Nothing in it is executed."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from massl_bench.core.errors import MasslBenchError
from massl_bench.core.files import sha256_file
from massl_bench.models.checkpoints import build_network, find_backbone, mismatches, not_finite
from massl_bench.models.metadata import WeightsMetadata, read_metadata
from massl_bench.models.reading import LazyTensor, load, open_checkpoint, shown, state_dict
from massl_bench.models.reading.describing import described

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
    architecture: str | None = None
    problem: str | None = None
    """Why `--model FILE` would refuse it; None where every tensor fits."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A file's content, and the encoder that would be built of it."""

    file: str
    num_bytes: int
    sha256: str
    parts: tuple[Part, ...]
    metadata: WeightsMetadata | None
    """Of a file that this package exported."""
    backbone: Recognition


def inspect_checkpoint(file: Path, arch: str | None = None, checkpoint_key: str | None = None) -> Inspection:
    """Reads a checkpoint safely and says what it holds; no network is filled with its tensors.

    Args:
        file: of torch or safetensors.
        arch: as loading it would be told.
        checkpoint_key: likewise.

    Raises:
        RequestError: The file cannot be read, or would execute something.
    """
    content = open_checkpoint(file).content
    plain = state_dict(content, str(file))
    if plain is not None or not isinstance(content, Mapping):
        parts = [_part("", content)]
    else:
        parts = [_part(shown(key), value) for key, value in islice(content.items(), _MOST_VALUES)]
    metadata = read_metadata(file)
    if arch is None and metadata is not None:
        arch = metadata.arch
    return Inspection(
        file=str(file),
        num_bytes=file.stat().st_size,
        sha256=sha256_file(file),
        parts=tuple(parts),
        metadata=metadata,
        backbone=_recognise(content, arch, checkpoint_key),
    )


def _recognise(content: Any, arch: str | None, checkpoint_key: str | None) -> Recognition:
    try:
        backbone = find_backbone(content, "the file", checkpoint_key)
    except MasslBenchError as error:
        return Recognition(problem=str(error))
    try:
        with torch.device("meta"):  # shapes only: neither memory nor random numbers for the values
            network, architecture, _ = build_network(backbone.tensors, arch, "the file")
    except MasslBenchError as error:
        return Recognition(found=backbone.layout, problem=str(error))
    problem: str | None = "; ".join(mismatches(network.state_dict(), backbone.tensors))
    try:
        problem = problem or not_finite(load(backbone.tensors, "the file"))
    except MasslBenchError as error:
        problem = str(error)
    return Recognition(found=backbone.layout, architecture=architecture, problem=problem)


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
