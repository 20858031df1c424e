"""What commands print: results to stdout, everything else to stderr."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from massl_bench.core.errors import CellError
from massl_bench.core.terminal import say, show, show_document

if TYPE_CHECKING:
    from massl_bench.bench.runner import Outcome
    from massl_bench.records.rows import Leaderboard

_APART_SHOWN = 3


def fail(text: str) -> None:
    """Prints one line of error."""
    say(f"error: {' '.join(text.split())}")


def as_json_document(value: Any) -> str:
    """Returns a value for machines."""
    import json  # here, and not for every --help

    from massl_bench.core.files import escaped_json

    return escaped_json(json.dumps(value, indent=2, ensure_ascii=False, default=str)) + "\n"


def print_json(value: Any) -> None:
    """Prints a value for machines."""
    show_document(as_json_document(value))


def say_apart(board: Leaderboard, models: Sequence[str]) -> None:
    """Says which records of some models are not taken, and why: the first three, and how many there are."""
    from massl_bench.records.rows import apart_of

    apart = apart_of(board, models)
    for text in apart[:_APART_SHOWN]:
        say(f"not taken: {text}")
    if len(apart) > _APART_SHOWN:
        say(f"not taken: {len(apart) - _APART_SHOWN} more; massl-bench leaderboard --format md says why")


def write_out(out: Path, text: str) -> None:
    """Writes what `--out` asked for, and says so; raises `CellError` where the file cannot be written."""
    from massl_bench.core.files import write_output

    try:
        write_output(out, text)
    except OSError as error:
        raise CellError(f"--out {out}: could not be written: {error.strerror or error}") from None
    say(f"written to {out}")


def print_outcomes(outcomes: Iterable[Outcome], *, as_json: bool) -> list[Outcome]:
    """Prints each cell as it is done, or all of them for machines; returns them."""
    done = []
    for outcome in outcomes:
        done.append(outcome)
        if not as_json:
            print_outcome(outcome)
    if as_json:
        print_json([outcome_json(outcome) for outcome in done])
    return done


def print_outcome(outcome: Outcome) -> None:
    """Prints a cell's headline in one line, or why it failed."""
    cell = f"{outcome.model} {outcome.task} {outcome.dataset}"
    record = outcome.record
    if outcome.status == "elsewhere":
        say(f"{cell}: {outcome.error}")
        return
    if record is None:
        fail(f"{cell}: {outcome.error}")
        return
    headline = record.headline
    scale = record.headline_scale
    interval = f" [{scale * headline.ci95[0]:.2f}, {scale * headline.ci95[1]:.2f}]" if headline.ci95 is not None else ""
    marks = [] if outcome.status == "done" else ["finished before"]
    marks += record.departures
    note = f" ({', '.join(marks)})" if marks else ""
    show(f"{cell}: {record.identity.task.headline} {scale * headline.value:.2f}{interval}{note} -> {outcome.path}")


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Returns an outcome as plain values, its record in full."""
    found = {key: getattr(outcome, key) for key in ("task", "dataset", "model", "status", "path", "error")}
    record = outcome.record.model_dump(mode="json") if outcome.record is not None else None
    return {**found, "record": record}
