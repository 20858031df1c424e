"""Published values: numbers that others state of their weights, each with its source. They are shown, never ranked."""

from __future__ import annotations

from datetime import date

from pydantic import Field, field_validator

from massl_bench.core.strict import Listed, StrictModel


class PublishedValue(StrictModel):
    """One number, as its source states it."""

    task: str
    """The task of this package that measures the same."""
    dataset: str
    metric: str
    value: float
    """As people see it: percent, where the metric is a fraction."""
    band: float = Field(default=1.0, gt=0)
    """How far a faithful measurement may lie beside it, in the same unit, beyond its own interval."""
    note: str | None = None
    """What is known to differ from the task's setting, and so explains a gap."""


class PublishedRow(StrictModel):
    """The numbers of one set of weights."""

    method: str
    architecture: str
    epochs: int | None = Field(default=None, gt=0)
    views: str | None = None
    models: Listed[tuple[str, ...]] = ()
    """What `--model` is given to measure these weights here: `timm:NAME`, a manifest's name, …"""
    weights_sha256: Listed[tuple[str, ...]] = ()
    """Files that are known to hold these weights, whatever they are called."""
    note: str | None = None
    values: Listed[tuple[PublishedValue, ...]] = Field(min_length=1)


class PublishedSpec(StrictModel):
    """What one source states. Each number was read there by whoever wrote the file."""

    name: str
    source: str
    """Repository and file, or paper and table."""
    revision: str | None = None
    """The commit or version of the source that was read."""
    read: str
    """The day it was read, ISO 8601."""
    rows: Listed[tuple[PublishedRow, ...]] = Field(min_length=1)

    @field_validator("read")
    @classmethod
    def _is_a_day(cls, value: str) -> str:
        try:
            date.fromisoformat(value)
        except ValueError:
            raise ValueError(f"expected a day, YYYY-MM-DD, got {value!r}") from None
        return value
