"""What the items of a record got, for the metric that a table shows: by it models are held against each other."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from massl_bench.core.errors import RequestError
from massl_bench.core.files import read_regular
from massl_bench.records.items import Items, read_items
from massl_bench.records.reading import read_record
from massl_bench.records.record import ResultRecord
from massl_bench.records.rows import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")

_log = logging.getLogger(__name__)

_TRIES = 30
"""Of a table, while records are measured again."""

_NAMED = 5
"""Records whose items cannot be read that are named, one by one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcomes:
    """What is kept of the items of a record, for one metric.

    Attributes:
        column: what each item got, [N] float64, or bits of right and wrong; of a metric that is no mean over items,
            what it is of each resample, [N] float64.
        count: N.
        labels: hash of the items' classes, where they have one each.
        drawn: what tells resamples apart; None where the column is of items.
        classes: (name, what its items got in the mean, their number) of each class; empty where that is not known.
    """

    column: NDArray[Any]
    count: int
    labels: str | None = None
    drawn: str | None = None
    classes: Sequence[tuple[str, float, int]] = ()

    @property
    def binary(self) -> bool:
        """Whether an item is right or wrong."""
        return self.column.dtype == np.uint8

    @property
    def values(self) -> NDArray[Any]:
        """The column, right and wrong as bool."""
        return np.unpackbits(self.column, count=self.count) == 1 if self.binary else self.column


class SupersededError(RequestError):
    """A record was measured again, or removed, after it was read: its items have gone."""


def of_one_state(make: Callable[[], T]) -> T:
    """Returns what `make` makes of results that change meanwhile: where they did, it is made once more.

    Raises:
        SupersededError: They changed every time.
    """
    for _ in range(_TRIES - 1):
        with suppress(SupersededError):
            return make()
    return make()


def outcomes_of(row: Row) -> Outcomes:
    """Returns what the items of a record got, for the metric that its row shows.

    Raises:
        RequestError: The record keeps neither items nor resamples for the metric, or their file is damaged.
    """
    found = _outcomes(row)
    if found is None:
        raise RequestError(f"{row.path.as_posix()}: {row.metric} is no mean over items, nor are its resamples kept")
    return found


def _outcomes(row: Row, *, with_labels: bool = True) -> Outcomes | None:
    items = _items(row)
    if (drawn := items.resampled.get(row.metric)) is not None:
        return Outcomes(column=drawn.values, count=len(drawn.values), drawn=drawn.key)
    if (column := items.outcomes.get(row.metric)) is None:
        return None
    labels = items.labels if items.labels is not None and len(items.labels) == len(column) else None
    return Outcomes(
        column=np.packbits(column) if column.dtype == np.bool_ else column,
        count=len(column),
        labels=hashlib.sha256(labels.tobytes()).hexdigest() if labels is not None and with_labels else None,
        classes=_classes(column, labels, items.class_names) if labels is not None else (),
    )


def _items(row: Row) -> Items:
    if row.file is None:
        raise RequestError(f"{row.path.as_posix()}: lies nowhere")
    try:
        return read_items(row.file, row.record, row.metric)
    except RequestError as error:  # a table says the same wherever the results lie
        if _is_superseded(row.file, row.record):
            text = f"{row.path.as_posix()}: changed while it was read; call it again"
            raise SupersededError(text) from None
        raise RequestError(str(error).replace(str(row.file), row.path.as_posix())) from None


def _is_superseded(file: Path, record: ResultRecord) -> bool:
    try:
        if record.items is not None and record.items.sha256.encode() in read_regular(file):
            return False  # where results were copied without their items, this is asked of thousands
        return read_record(file).items != record.items
    except (OSError, RequestError):
        return not file.exists()


def _classes(
    column: NDArray[Any], labels: NDArray[np.int64], names: Sequence[str] | None
) -> list[tuple[str, float, int]]:
    count_C = np.bincount(labels)
    mean_C = np.bincount(labels, weights=column.astype(np.float64)) / np.maximum(count_C, 1)
    names = names or [str(c) for c in range(len(count_C))]
    return [(names[c], float(mean_C[c]), int(count_C[c])) for c in np.flatnonzero(count_C).tolist()]


class OutcomesOf(dict[tuple[str, Path], Outcomes | None]):
    """The outcomes of the records of a page, each file read once; None where the intervals have to do."""

    def __init__(self) -> None:
        super().__init__()
        self._damaged = 0

    def of(self, row: Row) -> Outcomes | None:
        """Returns the outcomes of a row for the metric that it shows."""
        key = row.metric, row.path
        if key not in self:
            self[key] = self._read(row) if row.record.items is not None else None
        return self[key]

    def _read(self, row: Row) -> Outcomes | None:
        try:
            # Only of features that were handed in a column asks for the classes' hash, which costs as much as the rest.
            return _outcomes(row, with_labels=row.record.identity.model.weights_hash_of == "features")
        except SupersededError:
            raise
        except RequestError as error:  # the interval decides, and the column is marked
            self._damaged += 1
            if self._damaged <= _NAMED:
                _log.warning("%s", error)
            elif self._damaged == _NAMED + 1:
                _log.warning("the items of further records cannot be read either: the intervals of theirs decide")
        return None
