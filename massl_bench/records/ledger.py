"""The table of published values and ours: Markdown for people, csv and JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from tabulate import tabulate

from massl_bench.core.files import escaped_json
from massl_bench.records.markdown import escaped
from massl_bench.records.published import FAR, USUAL_CAUSES, LedgerLine
from massl_bench.records.tables import csv_text

_WORDS = {
    "reproduced": "reproduced",
    "beside": "beside its band",
    "far": "**set-up likely wrong**",
    None: "not measured",
}


def to_markdown(lines: Sequence[LedgerLine]) -> str:
    """Returns a table of what was measured, then one of what was not, and what a verdict means."""
    measured = [line for line in lines if line.record is not None]
    rest = [line for line in lines if line.record is None]
    parts = [_table(measured) if measured else "None of the weights behind these values was measured here."]
    parts.append(
        f"Reproduced: the published value lies in its band (1 point, or as its file says) around our 95 % interval; "
        f"likely wrong: more than {FAR} bands away. Then look at {', '.join(USUAL_CAUSES)}."
    )
    if rest:
        parts += ["Not measured here:", _table(rest)]
    return "\n\n".join(parts) + "\n"


def _table(lines: Sequence[LedgerLine]) -> str:
    rows = []
    for line in lines:
        values = line.as_values()
        ours = f"{line.ours:.2f}" if line.ours is not None else ""
        ours += f" [{line.interval[0]:.2f}, {line.interval[1]:.2f}]" if line.interval is not None else ""
        gap = f"{line.gap:+.2f}" if line.gap is not None else ""
        source = f"{values['source']} {values['revision'] or ''} ({values['read']})"
        weights = f"{values['weights']}{f', {epochs} epochs' if (epochs := values['epochs']) is not None else ''}"
        texts = (values["model"] or "", weights, f"{values['task']} {values['dataset']} {values['metric']}")
        shown = [escaped(text) for text in texts] + [f"{values['published']:.1f}", ours, gap, _WORDS[line.verdict]]
        rows.append([*shown, escaped(values["note"] or ""), escaped(source)])
    heads = ["model", "weights", "cell", "published", "ours", "gap", "verdict", "known to differ", "source (read)"]
    align = ("left", "left", "left", "right", "right", "right", "left", "left", "left")
    return tabulate(rows, heads, tablefmt="pipe", colalign=align, disable_numparse=True)


def to_csv(lines: Sequence[LedgerLine]) -> str:
    """Returns one line a published value and model."""
    rows = []
    for line in lines:
        values = line.as_values()
        values["ci95_low"], values["ci95_high"] = values.pop("ci95") or (None, None)
        rows.append(values)
    return csv_text(rows, list(rows[0]) if rows else ())


def to_json(lines: Sequence[LedgerLine]) -> str:
    """Returns a list, one entry a published value and model."""
    return escaped_json(json.dumps([line.as_values() for line in lines], indent=2, ensure_ascii=False)) + "\n"


FORMATS: Mapping[str, Callable[[Sequence[LedgerLine]], str]] = {"md": to_markdown, "csv": to_csv, "json": to_json}
