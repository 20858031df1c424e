"""The long tables, csv and JSON, with one line a record, for machines; beside them those for people."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from massl_bench.core.files import escaped_json
from massl_bench.core.printable import printable
from massl_bench.metrics.direction import less_is_better
from massl_bench.records.latex import to_latex
from massl_bench.records.markdown import to_markdown
from massl_bench.records.rows import Leaderboard

__all__ = ["to_csv", "to_json", "to_json_text", "to_latex", "to_markdown"]

_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
"""With which a text becomes a formula in a spreadsheet, the wide ones in a Japanese one."""


def to_csv(board: Leaderboard) -> str:
    """Returns one line a record, values as fractions at full precision; no text in it is taken for a formula."""
    return csv_text(_long(board), _COLUMNS)


def csv_text(lines: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Returns a head and the lines; what is None is left empty, and no text is taken for a formula."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _no_formula(value) for key, value in line.items()} for line in lines)
    return text.getvalue()


def to_json(board: Leaderboard) -> dict[str, Any]:
    """Returns the records that enter, and those that do not with the reason."""
    return {
        "suite": board.suite,
        "rows": _long(board),
        "apart": [{"record": path.as_posix(), "reason": reason} for path, reason in board.apart],
    }


def to_json_text(board: Leaderboard) -> str:
    """Returns `to_json` as text."""
    return escaped_json(json.dumps(to_json(board), indent=2, ensure_ascii=False)) + "\n"


_COLUMNS = [
    "model", "architecture", "task", "version", "dataset", "metric", "value", "ci95_low", "ci95_high",
    "std", "weights_sha256", "dataset_fingerprint", "created_at", "record", "has_hash",
    "precision", "less_is_better",
]  # fmt: skip


def _long(board: Leaderboard) -> list[dict[str, Any]]:
    """Returns one flat dictionary for each record, values as fractions."""
    lines = []
    for row in board.rows:
        identity, headline = row.record.identity, row.shown
        low, high = headline.ci95 or (None, None)
        lines.append(
            {
                "model": identity.model.name,
                "architecture": identity.model.architecture,
                "task": identity.task.name,
                "version": identity.task.version,
                "dataset": identity.dataset.name,
                "metric": row.metric,
                "value": headline.value,
                "ci95_low": low,
                "ci95_high": high,
                "std": headline.std,
                "weights_sha256": identity.model.weights_sha256,
                "dataset_fingerprint": identity.dataset.fingerprint,
                "created_at": row.record.created_at,
                "record": row.path.as_posix(),
                "has_hash": row.record.content_sha256 is not None,
                "precision": identity.precision,
                "less_is_better": less_is_better(row.metric),
            }
        )
    return lines


def _no_formula(value: Any) -> Any:
    """Returns a value, and a text so that no spreadsheet takes it for a formula."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULAS) else text
