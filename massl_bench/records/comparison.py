"""Models against each other, cell by cell: on the items that both were measured on, or by their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from massl_bench.core.errors import RequestError
from massl_bench.metrics.direction import less_is_better
from massl_bench.metrics.paired import all_pairs, all_resampled_pairs, compare_items, compare_resampled
from massl_bench.records.outcomes import OutcomesOf, outcomes_of
from massl_bench.records.ranking import LEVEL, holm, interval_p_values
from massl_bench.records.record import ResultRecord
from massl_bench.records.rows import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SEED = 0
_SMALLEST = 1e-300
"""P-values below it are not told apart."""
Test = Literal["McNemar, exact", "sign test, exact", "paired bootstrap", "intervals"]


class OtherItemsError(RequestError):
    """Two records are of different items: not even their intervals may be held together."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on one cell.

    Attributes:
        first: the record of the model that the other is held against.
        second: the record of the other.
        test: what decided; `paired bootstrap` for a metric that is no mean over items, `intervals` where a record has
            neither items nor resamples for the metric.
        difference: second minus first, as a fraction (times the record's scale for people).
        ci95: of the difference.
        better: items on which the second did better: got more or, of an error, less; None without items.
        worse: items on which it did worse.
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
    """Returns a comparison by what the items got, or by what the metrics are of the same resamples of them.

    Raises:
        OtherItemsError: The items' classes differ.
        RequestError: A record keeps neither, or they are of other numbers of items, or of other resamples.
    """
    one, other = outcomes_of(first), outcomes_of(second)
    if one.count != other.count:
        raise RequestError(f"{one.count} items against {other.count}")
    # Of features that were handed in, nothing else says whether they are of the same items.
    handed = [row for row in (first, second) if row.record.identity.model.weights_hash_of == "features"]
    unknown = one.drawn is None and None in (one.labels, other.labels)
    if handed and (unknown or (one.labels, one.drawn) != (other.labels, other.drawn)):
        raise OtherItemsError(
            f"{handed[0].path.as_posix()}: of features that were handed in, and the items' classes differ"
        )
    if one.drawn != other.drawn:
        raise RequestError("other resamples of the items")
    if one.drawn is not None:
        difference = second.shown.value - first.shown.value
        ci95, p_value = compare_resampled(difference, one.values, other.values)
        return Comparison(
            first=first, second=second, test="paired bootstrap", difference=difference, ci95=ci95, better=None,
            worse=None, p_value=p_value,
        )  # fmt: skip
    paired = compare_items(one.values, other.values, rng=np.random.default_rng(_SEED))
    better, worse = (paired.better, paired.worse)[:: -1 if less_is_better(first.metric) else 1]
    return Comparison(
        first=first,
        second=second,
        test="McNemar, exact" if one.binary and other.binary else "sign test, exact",
        difference=paired.value,
        ci95=paired.ci95,
        better=better,
        worse=worse,
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
        known: what their items got; filled while it is asked.
    """
    p_MM = interval_p_values([row.shown for row in rows])
    alike: dict[tuple[object, ...], list[int]] = {}
    columns: dict[int, NDArray[Any]] = {}
    for number, row in enumerate(rows):
        if (found := known.of(row)) is None:
            continue
        columns[number] = found.values
        # Features that were handed in have no fingerprint of their images: only their classes can be held together.
        handed = row.record.identity.model.weights_hash_of == "features"
        alike.setdefault((found.count, found.binary, found.drawn, found.labels if handed else None), []).append(number)
    paired_MM = np.eye(len(rows), dtype=bool)
    for (_, _, drawn, _), numbers in alike.items():
        block = np.ix_(numbers, numbers)
        column_MN = np.stack([columns[number] for number in numbers])
        if drawn is None:
            p_MM[block] = all_pairs(column_MN)
        else:
            p_MM[block] = all_resampled_pairs(np.array([rows[number].shown.value for number in numbers]), column_MN)
        paired_MM[block] = True
    return p_MM, bool(paired_MM.all())


def p_text(comparison: Comparison) -> str:
    """Returns the p-value for people; a positive one that has no double is no 0."""
    return f"{comparison.p_value:.2g}" if comparison.p_value > _SMALLEST else f"< {_SMALLEST:.0e}"


def verdict(comparison: Comparison) -> str:
    """Returns in words who is better; of ranks and exponents, which have no better end, who has more."""
    if not comparison.different:
        return "not told apart"
    words = ("better", "worse") if comparison.first.record.headline_scale == 100 else ("higher", "lower")
    return words[0] if (comparison.difference > 0) != less_is_better(comparison.first.metric) else words[1]


LEVEL_IN_WORDS = f"{100 * LEVEL:g} %"
