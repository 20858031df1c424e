"""Published values beside ours: what others state of weights that were measured here, and how far we are from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from massl_bench.records.record import ResultRecord
from massl_bench.records.rows import Row
from massl_bench.specs.published import PublishedRow, PublishedSpec, PublishedValue
from massl_bench.specs.registry import Registry

FAR = 3
"""A gap of more bands than this, beyond the interval, is no measuring error: something is set up wrong."""
USUAL_CAUSES = (
    "the preprocessing (size, crop, interpolation, mean and standard deviation)",
    "the pooling (class token, mean of the patches, which blocks)",
    "the order of the labels",
    "the file (student in place of teacher, another epoch, another size)",
)

Verdict = Literal["reproduced", "beside", "far"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One published number.

    Attributes:
        source: the file that it was read from, with its date.
        row: the weights that it is of.
        value: the number, and the cell it belongs to.
    """

    source: PublishedSpec
    row: PublishedRow
    value: PublishedValue

    def is_of(self, reference: str, weights_sha256: str) -> bool:
        """Returns whether the number is of these weights."""
        return reference in self.row.models or weights_sha256 in self.row.weights_sha256

    @property
    def note(self) -> str | None:
        """What explains a gap, as far as it is known."""
        return "; ".join(note for note in (self.value.note, self.row.note) if note is not None) or None


@dataclass(frozen=True, kw_only=True)
class LedgerLine:
    """A published number, and ours where the weights were measured on the same cell.

    Attributes:
        claim: the published number.
        record: ours, or None.
    """

    claim: Claim
    record: ResultRecord | None = None

    @property
    def ours(self) -> float | None:
        """Our value as people see it, in the published number's unit."""
        if self.record is None:
            return None
        return self.record.headline_scale * self.record.metrics[self.claim.value.metric].value

    @property
    def interval(self) -> tuple[float, float] | None:
        """Our 95 % interval, in the same unit."""
        if self.record is None or (ci95 := self.record.metrics[self.claim.value.metric].ci95) is None:
            return None
        return self.record.headline_scale * ci95[0], self.record.headline_scale * ci95[1]

    @property
    def gap(self) -> float | None:
        """Ours minus the published one."""
        return self.ours - self.claim.value.value if self.ours is not None else None

    @property
    def verdict(self) -> Verdict | None:
        """Returns `reproduced` within the band around our interval, `far` beyond `FAR` bands, else `beside`."""
        if self.ours is None:
            return None
        low, high = self.interval or (self.ours, self.ours)
        beyond = max(low - self.claim.value.value, self.claim.value.value - high, 0.0)
        bands = beyond / self.claim.value.band
        return "reproduced" if bands <= 1 else "beside" if bands <= FAR else "far"

    def sentence(self) -> str:
        """Returns the line for people: published, ours, gap, what explains it, and what to look at where it is far."""
        claim, value = self.claim, self.claim.value
        text = f"published {value.value:.1f} ({claim.source.source}, read {claim.source.read})"
        if self.ours is None or self.gap is None:
            return text + f"; {claim.note}" * (claim.note is not None)
        interval = f" [{self.interval[0]:.2f}, {self.interval[1]:.2f}]" if self.interval is not None else ""
        text += f", ours {self.ours:.2f}{interval}, gap {self.gap:+.2f}"
        text += f"; known: {claim.note}" if claim.note is not None else ""
        if self.verdict == "far":
            text += (
                f"; more than {FAR} bands of {value.band:g} away: the set-up is likely wrong. Look at "
                f"{', '.join(USUAL_CAUSES)}"
            )
        return text

    def as_values(self) -> dict[str, Any]:
        """Returns the line as plain values."""
        row, value, source = self.claim.row, self.claim.value, self.claim.source
        return {
            "model": self.record.identity.model.name if self.record is not None else None,
            "weights": " ".join(filter(None, (row.method, row.architecture, row.views))),
            "epochs": row.epochs,
            "task": value.task,
            "dataset": value.dataset,
            "metric": value.metric,
            "published": value.value,
            "ours": round(self.ours, 4) if self.ours is not None else None,
            "ci95": [round(end, 4) for end in self.interval] if self.interval is not None else None,
            "gap": round(self.gap, 4) if self.gap is not None else None,
            "band": value.band,
            "verdict": self.verdict,
            "note": self.claim.note,
            "source": source.source,
            "revision": source.revision,
            "read": source.read,
        }


def claims(registry: Registry) -> list[Claim]:
    """Returns every published number of the registry, in the order of files and rows; raises `SpecError`."""
    return [
        Claim(source=source, row=row, value=value)
        for source in map(registry.published_values, registry.published)
        for row in source.rows
        for value in row.values
    ]


def ledger(known: Iterable[Claim], rows: Sequence[Row]) -> list[LedgerLine]:
    """Returns a line for each published number and each of our models that it is of; one without where there is none.

    Args:
        known: published numbers.
        rows: the records that enter a table.
    """
    by_cell: dict[tuple[str, str], list[ResultRecord]] = {}
    for row in rows:
        by_cell.setdefault(row.cell, []).append(row.record)
    lines = []
    for claim in known:
        measured = of_claim(claim, by_cell.get((claim.value.task, claim.value.dataset), ()))
        lines += [LedgerLine(claim=claim, record=record) for record in measured] or [LedgerLine(claim=claim)]
    return lines


def of_claim(claim: Claim, records: Iterable[ResultRecord]) -> list[ResultRecord]:
    """Returns those of some records that measure what a published number states."""
    return [
        record
        for record in records
        if (record.identity.task.name, record.identity.dataset.name) == (claim.value.task, claim.value.dataset)
        and claim.value.metric in record.metrics
        and claim.is_of(record.model_reference, record.identity.model.weights_sha256)
    ]
