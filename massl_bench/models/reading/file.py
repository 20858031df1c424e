"""A checkpoint, open: what it holds, in plain values; its tensors are read when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from massl_bench.core.archive_hash import check_hash
from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import what_it_is
from massl_bench.models.reading.bounds import DamagedError, RefusedError, shown, would_run
from massl_bench.models.reading.containers import read_content
from massl_bench.models.reading.content import Container, Content
from massl_bench.models.reading.series import INDEX_SUFFIX, check_series, read_index
from massl_bench.models.reading.tensors import StandIn


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """A checkpoint, read without executing anything.

    Attributes:
        path: as it was given: a file, or the index of a series of files.
        files: that its tensors lie in.
        container: how they are packed.
        content: nested plain values; a tensor is a `LazyTensor`, what is no plain value a `StandIn`.
        globals: how often each name was asked for by the file's pickle.
        stand_ins: how many values are stand-ins, by the name of what they stand for.
        metadata: what a safetensors file says of itself.
        num_bytes: of all files together.
    """

    path: Path
    files: tuple[Path, ...]
    container: Container
    content: Any
    globals: Mapping[str, int]
    stand_ins: Mapping[str, int]
    metadata: Mapping[str, str]
    num_bytes: int


def open_checkpoint(file: Path, *, compared: bool = False) -> CheckpointFile:
    """Returns what a checkpoint holds; reads no tensor's values, and executes nothing.

    Args:
        file: of torch or safetensors, or the index (`….index.json`) of several that lie beside it.
        compared: whether this file, as it is now, was compared with its checksums before.

    Raises:
        RequestError: It is no checkpoint, is damaged, or asks for code; the text is one line.
    """
    try:
        if file.name.endswith(INDEX_SUFFIX):
            return _open_series(file, compared)
        content = _content_of(file, compared)
        return _opened(file, (file,), content.value, [content])
    except OSError as error:
        raise RequestError(f"{file}: cannot be read: {error.strerror or one_line(error)}") from None


def _content_of(file: Path, compared: bool) -> Content:
    try:
        content = read_content(file, compared=compared)
        if not compared:
            check_hash(file)
    except (RequestError, OSError):
        raise
    except RefusedError as error:
        raise RequestError(f"{file}: refused: {error}") from None
    except Exception as error:  # damaged bytes raise nearly anything
        kind = "a safetensors file" if file.suffix == ".safetensors" else "a checkpoint of torch"
        reason = f" ({shown(error)})" if isinstance(error, DamagedError) and str(error) else ""
        raise RequestError(f"{file}: not {kind}, or a damaged one: it is {what_it_is(file)}{reason}") from None
    if file.suffix == ".safetensors" and content.container != "safetensors":
        raise RequestError(f"{file}: refused: it is called safetensors, and it is a pickle of torch")
    if isinstance(content.value, StandIn):
        raise RequestError(f"{file}: refused: {would_run(content.value.name)}")
    return content


def _open_series(index: Path, compared: bool) -> CheckpointFile:
    weight_map, files = read_index(index)
    contents = {name: _content_of(file, compared) for name, file in files.items()}
    merged = check_series(index, weight_map, {name: content.value for name, content in contents.items()})
    return _opened(index, tuple(files.values()), merged, list(contents.values()))


def _opened(path: Path, files: tuple[Path, ...], value: Any, contents: list[Content]) -> CheckpointFile:
    def summed(counts: list[Mapping[str, int]]) -> Mapping[str, int]:
        names = sorted({name for each in counts for name in each})
        return {name: sum(each.get(name, 0) for each in counts) for name in names}

    return CheckpointFile(
        path=path,
        files=files,
        container=contents[0].container,
        content=value,
        globals=summed([content.globals for content in contents]),
        stand_ins=summed([content.stand_ins for content in contents]),
        metadata={name: text for content in contents for name, text in content.metadata.items()},
        num_bytes=sum(file.stat().st_size for file in files),
    )
