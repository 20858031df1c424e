"""Weights in several files, and the index that says which tensor lies in which: Hugging Face's layout."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from massl_bench.core.errors import RequestError
from massl_bench.core.files import open_regular
from massl_bench.models.reading.bounds import LARGEST_DIRECTORY, shown
from massl_bench.models.reading.tensors import LazyTensor

INDEX_SUFFIX = ".index.json"


def inside(directory: Path, name: str, where: str) -> Path:
    """Returns the file of a name that a text of others gives, which must lie in the directory.

    Links are followed. In the cache of the hub a snapshot's files are links to `blobs` beside the snapshots: they may
    lead anywhere inside that cache's folder of the model.

    Raises:
        RequestError: The name, or the link behind it, leads out of the directory.
    """
    if name in ("", ".", "..") or re.search(r"[/\\\0]", name):
        raise RequestError(f"{where}: refused: {shown(name)!r} is not the name of a file beside it")
    path, root = directory / name, directory.resolve()
    if root.parent.name == "snapshots":
        root = root.parent.parent
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise RequestError(f"{where}: {shown(name)} is not there; fetch all of its files") from None
    if not target.is_relative_to(root):
        raise RequestError(f"{where}: refused: {shown(name)} is a link out of its directory")
    return path


def read_index(index: Path) -> tuple[dict[str, str], dict[str, Path]]:
    """Returns (the file's name by the tensor's, the files by name); every file of the series is there.

    Raises:
        RequestError: It is no index, or names files that are not there, or elsewhere, or not the whole series.
        OSError: It cannot be read.
    """
    with open_regular(index) as file:
        content = file.read(LARGEST_DIRECTORY + 1)
    try:
        value = json.loads(content) if len(content) <= LARGEST_DIRECTORY else None
    except (ValueError, RecursionError):
        value = None
    weight_map = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(n, str) for n in weight_map.values()):
        raise RequestError(f"{index}: not an index of weights: expected weight_map, from names of tensors to files")
    names = sorted(set(weight_map.values()))
    _check_whole(index, names)
    return weight_map, {name: inside(index.parent, name, str(index)) for name in names}


def _check_whole(index: Path, names: list[str]) -> None:
    numbers = [re.search(r"-([0-9]{1,6})-of-([0-9]{1,6})\.", name) for name in names]
    found = {int(match[1]) for match in numbers if match}
    counts = {int(match[2]) for match in numbers if match}
    if not counts:
        return  # the names are no series: the index alone says what there is
    if None in numbers or len(counts) > 1:
        raise RequestError(f"{index}: refused: its files {shown(', '.join(names))} are not one series")
    count = counts.pop()
    missing = next((number for number in range(1, count + 1) if number not in found), None)
    if missing is not None or len(found) != count:
        raise RequestError(f"{index}: refused: file {missing or count} of {count} is not in it")


def check_series(index: Path, weight_map: Mapping[str, str], contents: Mapping[str, Any]) -> dict[str, LazyTensor]:
    """Returns the tensors of all files, each where the index says and nowhere else.

    Raises:
        RequestError: Index and files differ.
    """
    merged: dict[str, LazyTensor] = {}
    for file, content in contents.items():
        if not isinstance(content, dict) or not all(isinstance(each, LazyTensor) for each in content.values()):
            raise RequestError(f"{index}: refused: {shown(file)} holds more than tensors")
        merged |= content
        for name in content:
            if weight_map.get(name) != file:
                raise RequestError(
                    f"{index}: refused: {shown(name)} lies in {shown(file)}, and its index says otherwise"
                )
    missing = [name for name in weight_map if name not in merged]
    if missing:
        raise RequestError(f"{index}: refused: {shown(missing[0])} is in no file; {len(missing)} such names")
    return merged
