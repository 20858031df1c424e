"""Models against each other, cell by cell: on the items that both were measured on, or by their intervals."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from massl_bench.core.errors import RequestError
from massl_bench.metrics.paired import all_pairs, compare_items
from massl_bench.records.items import Items, read_items
from massl_bench.records.ranking import LEVEL, holm, interval_p_values
from massl_bench.records.record import ResultRecord
from massl_bench.records.rows import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)

_SEED = 0
_SMALLEST = 1e-300
"""P-values below it are not told apart."""
Test = Literal["McNemar, exact", "sign test, exact", "intervals"]


class OtherItemsError(RequestError):
    """Two records are of different items: not even their intervals may be held together."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on one cell.

    Attributes:
        first: the record of the model that the other is held against.
        second: the record of the other.
        test: what decided; `intervals` where a record has no items for the metric.
        difference: second minus first, as a fraction (times the record's scale for people).
        ci95: of the difference.
        better: items on which the second got more; None without items.
        worse: items on which it got less.
        p_value: two-sided, of this cell alone.
        different: whether it is significant at 5 % when all cells of the comparison are corrected together (Holm).
        note: why there are no items, where there are none.
    """

    first: Row
    second: Row
    test: Test
    difference: float
    ci95: tuple[float, float] | None
    better: int | None
    worse: int | None
    p_value: float
    different: bool = False
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Two models on one cell that cannot be compared, and why."""

    first: Row
    second: Row
    reason: str


def why_not(first: ResultRecord, second: ResultRecord) -> str | None:
    """Returns why two records of one cell are not of the same measurement on the same items, or None where they are.

    Features that were handed in say nothing of their images: whether their items are the same is asked of their labels
    (`paired_items`).
    """
    one, other = first.identity, second.identity
    if (one.task.version, one.task.spec_sha256) != (other.task.version, other.task.spec_sha256):
        return f"version {one.task.version} of {one.task.name} against version {other.task.version}, or other numbers"
    if one.task.seed != other.task.seed:
        return f"seed {one.task.seed} against seed {other.task.seed}"
    if one.dataset.limit != other.dataset.limit:
        return f"other items: the limits are {one.dataset.limit or 'none'} and {other.dataset.limit or 'none'}"
    if one.dataset.skipped != other.dataset.skipped:
        return "other items: other images were left out as corrupt"
    handed = "features" in (one.model.weights_hash_of, other.model.weights_hash_of)
    if not handed and one.dataset.fingerprint != other.dataset.fingerprint:
        return f"other data: the fingerprints are {one.dataset.fingerprint[:8]} and {other.dataset.fingerprint[:8]}"
    return None


def paired_items(first: Row, second: Row, metric: str) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Returns what each item got from two models.

    Raises:
        OtherItemsError: The items' classes differ.
        RequestError: A record has no items for the metric, or another number of them.
    """
    one, other = _items(first), _items(second)
    for row, items in ((first, one), (second, other)):
        if metric not in items.outcomes:
            raise RequestError(f"{row.path.as_posix()}: {metric} is no mean over items")
    columns = one.outcomes[metric], other.outcomes[metric]
    if len(columns[0]) != len(columns[1]):
        raise RequestError(f"{len(columns[0])} items against {len(columns[1])}")
    handed = [row for row in (first, second) if row.record.identity.model.weights_hash_of == "features"]
    if handed and (one.labels is None or other.labels is None or not np.array_equal(one.labels, other.labels)):
        raise OtherItemsError(
            f"{handed[0].path.as_posix()}: of features that were handed in, and the items' classes differ"
        )
    return columns


def _items(row: Row) -> Items:
    if row.file is None:
        raise RequestError(f"{row.path.as_posix()}: lies nowhere")
    try:
        return read_items(row.file, row.record)
    except RequestError as error:  # a table says the same wherever the results lie
        raise RequestError(str(error).replace(str(row.file), row.path.as_posix())) from None


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcomes:
    """What a table keeps of the items of a record.

    Attributes:
        column: what each item got, [N] float64, or bits of right and wrong.
        num_items: N.
        labels: hash of the items' classes.
        classes: (name, what its items got in the mean, their number) of each class; empty where that is not known.
    """

    column: NDArray[Any]
    num_items: int
    labels: int | None
    classes: Sequence[tuple[str, float, int]]

    @property
    def binary(self) -> bool:
        """Whether an item is right or wrong."""
        return self.column.dtype == np.uint8


class OutcomesOf(dict[tuple[str, Path], Outcomes | None]):
    """The outcomes of the records of a page, each file read once; None where the intervals have to do."""

    def of(self, row: Row) -> Outcomes | None:
        """Returns the outcomes of a row for the metric that it shows."""
        key = row.metric, row.path
        if key not in self:
            self[key] = self._read(row)
        return self[key]

    @staticmethod
    def _read(row: Row) -> Outcomes | None:
        try:
            items = _items(row) if row.record.items is not None else None
        except RequestError as error:
            _log.warning("%s", error)
            return None  # the interval decides, and the column is marked
        column = items.outcomes.get(row.metric) if items is not None else None
        if items is None or column is None:
            return None
        labels = items.labels if items.labels is not None and len(items.labels) == len(column) else None
        classes: list[tuple[str, float, int]] = []
        if labels is not None:
            count_C = np.bincount(labels)
            mean_C = np.bincount(labels, weights=column.astype(np.float64)) / np.maximum(count_C, 1)
            names = items.class_names or tuple(map(str, range(len(count_C))))
            classes = [(names[c], float(mean_C[c]), int(count_C[c])) for c in np.flatnonzero(count_C)]
        return Outcomes(
            column=np.packbits(column) if column.dtype == np.bool_ else column,
            num_items=len(column),
            labels=hash(labels.tobytes()) if labels is not None else None,
            classes=classes,
        )


def compare_rows(pairs: Sequence[tuple[Row, Row]]) -> tuple[list[Comparison], list[Refusal]]:
    """Returns the comparisons of pairs of records, corrected together, and the pairs that cannot be compared.

    Args:
        pairs: records of one cell each, whose `metric` is what is compared.
    """
    found: list[Comparison] = []
    refused: list[Refusal] = []
    for first, second in pairs:
        reason = why_not(first.record, second.record)
        if reason is None and first.metric != second.metric:
            reason = f"{first.metric} against {second.metric}"
        if reason is not None:
            refused.append(Refusal(first=first, second=second, reason=reason))
            continue
        try:
            found.append(_by_items(first, second))
        except OtherItemsError as error:
            refused.append(Refusal(first=first, second=second, reason=str(error)))
        except RequestError as error:
            found.append(_by_intervals(first, second, str(error)))
    significant = holm(np.array([comparison.p_value for comparison in found]))
    return [replace(one, different=bool(two)) for one, two in zip(found, significant, strict=True)], refused


def _by_items(first: Row, second: Row) -> Comparison:
    one_N, other_N = paired_items(first, second, first.metric)
    paired = compare_items(one_N, other_N, rng=np.random.default_rng(_SEED))
    binary = one_N.dtype == np.bool_ and other_N.dtype == np.bool_
    return Comparison(
        first=first,
        second=second,
        test="McNemar, exact" if binary else "sign test, exact",
        difference=paired.value,
        ci95=paired.ci95,
        better=paired.better,
        worse=paired.worse,
        p_value=paired.p_value,
    )


def _by_intervals(first: Row, second: Row, note: str) -> Comparison:
    one, other = first.shown, second.shown
    difference = other.value - one.value
    ci95 = None
    if one.ci95 is not None and other.ci95 is not None:
        reach = float(np.hypot(one.ci95[1] - one.ci95[0], other.ci95[1] - other.ci95[0])) / 2
        ci95 = (difference - reach, difference + reach)
    return Comparison(
        first=first,
        second=second,
        test="intervals",
        difference=difference,
        ci95=ci95,
        better=None,
        worse=None,
        p_value=float(interval_p_values([one, other])[0, 1]),
        note=note,
    )


def column_p_values(rows: Sequence[Row], known: OutcomesOf) -> tuple[NDArray[np.float64], bool]:
    """Returns the two-sided p-values of all pairs of a column, [M, M], and whether all come from tests on items.

    Args:
        rows: M records of one cell, of the same data.
        known: the outcomes of records that were read before.
    """
    p_MM = interval_p_values([row.shown for row in rows])
    alike: dict[tuple[int, bool, int | None], list[int]] = {}
    columns: dict[int, NDArray[Any]] = {}
    for number, row in enumerate(rows):
        if (outcomes := known.of(row)) is None:
            continue
        binary = outcomes.binary
        columns[number] = np.unpackbits(outcomes.column, count=outcomes.num_items) == 1 if binary else outcomes.column
        # Features that were handed in have no fingerprint of their images: only their classes can be held together.
        handed = row.record.identity.model.weights_hash_of == "features"
        alike.setdefault((outcomes.num_items, binary, outcomes.labels if handed else None), []).append(number)
    paired_MM = np.eye(len(rows), dtype=bool)
    for numbers in alike.values():
        block = np.ix_(numbers, numbers)
        p_MM[block] = all_pairs(np.stack([columns[number] for number in numbers]))
        paired_MM[block] = True
    return p_MM, bool(paired_MM.all())


def p_text(comparison: Comparison) -> str:
    """Returns the p-value for people; a positive one that has no double is no 0."""
    return f"{comparison.p_value:.2g}" if comparison.p_value > _SMALLEST else f"< {_SMALLEST:.0e}"


def verdict(comparison: Comparison) -> str:
    """Returns in words who is better."""
    if not comparison.different:
        return "not told apart"
    return "better" if comparison.difference > 0 else "worse"


LEVEL_IN_WORDS = f"{100 * LEVEL:g} %"
