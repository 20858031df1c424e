"""What each test item got, in a small file beside its record: models are compared on the items that they share.

A safetensors file holds one tensor for each metric that is a mean over items, right and wrong as one bit an item; for a
metric that is none (a mean average precision), what it is of each bootstrap resample of the items; and the items'
classes, where they have one. Its name ends with the first digits of its hash. The record is written after it
and names both: a record never points at the items of another run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import atomic_file, parse_json, read_regular
from massl_bench.core.values import Resampled, Score
from massl_bench.records.record import ItemsFile, ResultRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SUFFIX = ".items.safetensors"
_LABELS = "labels"
_PREDICTED = "predicted:"
_RESAMPLED = "resampled:"
_METADATA = "massl_bench"


@dataclass(frozen=True, kw_only=True, eq=False)
class Items:
    """What the test items of a record got.

    Attributes:
        outcomes: by metric, [N]: bool, or float64.
        predicted: by metric, the class that each item was given, int64 [N]; −1 for none.
        resampled: by metric that is no mean over items, what it is of each resample of them.
        labels: the class of each item, int64 [N]; None where items have no single class.
        class_names: in the order of the classes, where they are known.
    """

    outcomes: Mapping[str, NDArray[Any]]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...] | None = None
    predicted: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    resampled: Mapping[str, Resampled] = field(default_factory=dict)


def write_items(
    path: Path, metrics: Mapping[str, Score], labels: NDArray[Any] | None, class_names: Sequence[str] | None = None
) -> ItemsFile | None:
    """Writes the file of the record that is to lie at `path`; returns what the record says of it, None without items.

    Args:
        path: the record's.
        metrics: the scores, some of which have items.
        labels: the classes of the test split, where it has some.
        class_names: their names.

    Raises:
        OSError: It cannot be written.
    """
    import numpy as np
    from safetensors.numpy import save

    columns = {name: score.items for name, score in metrics.items() if score.items is not None and len(score.items)}
    resampled = {name: score.resampled for name, score in metrics.items() if score.resampled is not None}
    if not columns and not resampled:
        return None
    count = max((len(column) for column in (*columns.values(), *([labels] if labels is not None else []))), default=0)
    tensors: dict[str, NDArray[Any]] = {}
    bits: dict[str, int] = {}
    for name, column in columns.items():
        if np.isin(column, (0, 1)).all():
            bits[name] = len(column)
            tensors[name] = np.packbits(column.astype(bool))
        else:
            tensors[name] = np.ascontiguousarray(column, dtype=np.float64)
    for name, score in metrics.items():
        if name in columns and score.predicted is not None:
            largest = int(score.predicted.max(initial=0)) + 1
            tensors[_PREDICTED + name] = score.predicted.astype(np.min_scalar_type(-largest))  # signed: −1 is none
    for name, drawn in resampled.items():
        tensors[_RESAMPLED + name] = np.ascontiguousarray(drawn.values, dtype=np.float64)
    if labels is not None and labels.ndim == 1 and len(labels) == count:
        tensors[_LABELS] = labels.astype(np.min_scalar_type(int(labels.max(initial=0))))
    told: dict[str, Any] = {"bits": bits, "classes": None}
    if class_names is not None and _LABELS in tensors:
        told["classes"] = list(class_names)
    if resampled:
        told["resamples"] = {name: drawn.key for name, drawn in resampled.items()}
    content = save(tensors, {_METADATA: json.dumps(told, sort_keys=True)})
    sha256 = hashlib.sha256(content).hexdigest()
    file = path.with_name(f"{path.stem}.{sha256[:8]}{_SUFFIX}")
    with atomic_file(file) as temporary:
        temporary.write_bytes(content)
    return ItemsFile(file=file.name, sha256=sha256, num_items=count)


def remove_other_items(path: Path, items: ItemsFile | None) -> None:
    """Removes the files of items that earlier records at the same path named."""
    for file in path.parent.glob(f"*{_SUFFIX}"):
        stem, _, digits = file.name.removesuffix(_SUFFIX).rpartition(".")
        if stem == path.stem and len(digits) == 8 and (items is None or file.name != items.file):
            file.unlink(missing_ok=True)


def read_items(record_file: Path, record: ResultRecord, metric: str | None = None) -> Items:
    """Returns what the items of a record got.

    Args:
        record_file: where the record lies; the file of the items lies beside it.
        record: it.
        metric: the only one whose tensors are unpacked, as a table of thousands needs one of each; None: all.

    Raises:
        RequestError: The record names no such file, or it is missing, damaged, or another record's.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if record.items is None:
        raise RequestError(f"{record_file}: holds no outcomes of single items: it is older, or its metric has none")
    file = record_file.with_name(record.items.file)
    again = "measure the cell again"
    try:
        content = read_regular(file)
    except OSError as error:
        raise RequestError(f"{file}: the items of {record_file.name}: {error.strerror}; {again}") from None
    if hashlib.sha256(content).hexdigest() != record.items.sha256:
        raise RequestError(f"{file}: other bytes than {record_file.name} names: it was damaged or changed; {again}")
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        told = parse_json(parse_json(content[8 : 8 + length])["__metadata__"][_METADATA])
        bits, names = told["bits"], told["classes"]
        if metric is not None:
            wanted = {metric, _LABELS, _PREDICTED + metric, _RESAMPLED + metric}
            tensors = {name: tensor for name, tensor in tensors.items() if name in wanted}
        labels = tensors.pop(_LABELS).astype(np.int64) if _LABELS in tensors else None
        predicted = {
            name.removeprefix(_PREDICTED): tensors.pop(name).astype(np.int64)
            for name in list(tensors)
            if name.startswith(_PREDICTED)
        }
        resampled = {
            name: Resampled(values=tensors.pop(_RESAMPLED + name), key=str(key))
            for name, key in told.get("resamples", {}).items()
            if metric in (None, name)
        }
        outcomes = {
            name: np.unpackbits(tensor, count=bits[name]).astype(bool) if name in bits else tensor
            for name, tensor in tensors.items()
        }
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"{file}: not a file of items: {one_line(error)}") from None
    return Items(
        outcomes=outcomes,
        labels=labels,
        class_names=tuple(names) if names is not None else None,
        predicted=predicted,
        resampled=resampled,
    )
