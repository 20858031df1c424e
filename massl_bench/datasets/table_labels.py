"""The labels of tables: class indices in one order, with the names that the files give them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.printable import printable


def label_values(path: Path, column: str) -> NDArray[Any]:
    """Returns the labels of a file; of strings, each different one is held once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = pq.ParquetFile(path, read_dictionary=[column]).read(columns=[column])[column]
    if not pa.types.is_dictionary(values.type) or values.null_count:
        return values.to_numpy()  # type: ignore[no-any-return]
    parts = [np.array(part.dictionary.to_pylist(), dtype=object)[part.indices.to_numpy()] for part in values.chunks]
    return np.concatenate([np.empty(0, dtype=object), *parts])


def aligned(
    files: Sequence[Path], labels: list[NDArray[Any]], names: list[tuple[str, ...] | None], column: str
) -> tuple[list[NDArray[Any]], tuple[str, ...] | None]:
    """Returns the labels of all files as the first one counts its classes, and its names.

    Raises:
        RequestError: Only some files name their classes, or not the same ones, or their labels are of several kinds.
    """
    kinds = {values.dtype.kind for values in labels}
    if len(kinds) > 1 and not kinds <= {"i", "u"}:
        raise RequestError(f"label column {column!r}: the files hold labels of several kinds: they cannot be joined")
    first = names[0]
    if all(found == first for found in names):
        return labels, first
    without = [path.name for path, found in zip(files, names, strict=True) if found is None]
    if without:
        raise RequestError(
            f"{printable(without[0])}: no class names for {column!r}, and other files of the split have some: its "
            "labels may mean other classes; fetch the files again, of one version"
        )
    assert first is not None
    number = {name: index for index, name in enumerate(first)}
    numbered = []
    for path, values, found in zip(files, labels, names, strict=True):
        assert found is not None
        if set(found) != set(first) or len(set(found)) != len(found):
            other = next(iter(sorted(set(found) ^ set(first))), found[0])
            raise RequestError(
                f"{printable(path.name)}: its classes are not those of {printable(files[0].name)} "
                f"({printable(other)!r} is in one of them): fetch the files again, of one version"
            )
        to_first = np.array([number[name] for name in found], dtype=np.int64)
        if len(values) and (values.min() < 0 or values.max() >= len(found)):
            raise RequestError(
                f"{printable(path.name)}: labels from {values.min()} to {values.max()}, expected 0 to {len(found) - 1}"
            )
        numbered.append(to_first[values])
    return numbered, first


def label_indices(
    values: NDArray[Any], names: tuple[str, ...] | None, column: str
) -> tuple[NDArray[np.int64], tuple[str, ...] | None]:
    """Returns labels as class indices, with the names where they are known; strings become indices in sorted order."""
    if np.issubdtype(values.dtype, np.integer):
        return values.astype(np.int64), names
    if values.dtype.kind in "OU" and all(isinstance(value, str) for value in values):
        classes = sorted(set(values.tolist()))
        number = {name: index for index, name in enumerate(classes)}
        return np.array([number[value] for value in values], dtype=np.int64), tuple(map(printable, classes))
    raise RequestError(
        f"label column {printable(column)!r}: expected whole numbers or strings without gaps, found {values.dtype}"
    )


def parquet_class_names(path: Path, metadata: dict[bytes, bytes] | None, label_column: str) -> tuple[str, ...] | None:
    """Returns the class names that the hub's library leaves in a file's schema; None where it left nothing of them.

    Raises:
        RequestError: What is left there cannot be read: labels may mean anything.
    """
    import json

    text = (metadata or {}).get(b"huggingface")
    if text is None:
        return None
    try:
        feature = json.loads(text)["info"]["features"].get(label_column)
        names = feature.get("names") if isinstance(feature, dict) else None
        if names is None:
            return None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError("the class names are no list of texts")
        return tuple(printable(name) for name in names)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise RequestError(
            f"{printable(path)}: the schema's class names cannot be read: {type(error).__name__}: {one_line(error)}; "
            "fetch the file again"
        ) from None
