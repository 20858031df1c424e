"""What commands print: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
from typing import Any

from massl_bench.core.files import escaped_json
from massl_bench.core.terminal import say, show, show_document


def fail(text: str) -> None:
    """Prints one line of error."""
    say(f"error: {' '.join(text.split())}")


def print_json(value: Any) -> None:
    """Prints a value for machines."""
    show_document(escaped_json(json.dumps(value, indent=2, ensure_ascii=False, default=str)) + "\n")


def print_outcome(outcome: Any) -> None:
    """Prints a cell's headline in one line, or why it failed."""
    cell = f"{outcome.model} {outcome.task} {outcome.dataset}"
    if outcome.status == "failed":
        fail(f"{cell}: {outcome.error}")
        return
    record = outcome.record
    headline = record.headline
    scale = record.headline_scale
    interval = f" [{scale * headline.ci95[0]:.2f}, {scale * headline.ci95[1]:.2f}]" if headline.ci95 is not None else ""
    marks = [] if outcome.status == "done" else ["finished before"]
    marks += record.departures
    note = f" ({', '.join(marks)})" if marks else ""
    show(f"{cell}: {record.identity.task.headline} {scale * headline.value:.2f}{interval}{note} -> {outcome.path}")


def outcome_json(outcome: Any) -> dict[str, Any]:
    """Returns an outcome as plain values, its record in full."""
    found = {key: getattr(outcome, key) for key in ("task", "dataset", "model", "status", "path", "error")}
    record = outcome.record.model_dump(mode="json") if outcome.record is not None else None
    return {**found, "record": record}
