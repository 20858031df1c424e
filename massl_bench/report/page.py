"""The page of a leaderboard: one HTML file, the same bytes for the same records on any machine."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from massl_bench.core.collector import paused_collector
from massl_bench.core.wording import option
from massl_bench.metrics.direction import less_is_better, with_arrow
from massl_bench.records.columns import copies
from massl_bench.records.outcomes import OutcomesOf
from massl_bench.records.published import FAR, Claim, LedgerLine, claims, ledger
from massl_bench.records.ranking import ColumnRanks
from massl_bench.records.rows import UNREADABLE, Leaderboard
from massl_bench.report import html
from massl_bench.report.board import Column, ModelLine, PublishedLine, Section, interval_text, sections
from massl_bench.report.details import Details, json_text
from massl_bench.specs.registry import Registry


def leaderboard_page(
    board: Leaderboard, registry: Registry, *, href: str | None = None, title: str = "", version: str | None = None
) -> str:
    """Returns the page.

    Args:
        board: the records.
        registry: the suites, and the published values.
        href: what stands before a record's path in a link to its file; None: no links.
        title: of the page; the suite's name where it is empty.
        version: of a page that is served, and asks its server for a newer one; None: a file.

    Raises:
        RequestError: A file of the registry is broken.
    """
    with paused_collector():
        return _page(board, registry, href, title, version)


def _page(board: Leaderboard, registry: Registry, href: str | None, title: str, version: str | None) -> str:
    known = claims(registry)
    outcomes = OutcomesOf()
    details = Details(outcomes)
    numbers = {id(claim): number for number, claim in enumerate(known)}
    found = sections(board, registry, known, outcomes)
    tables = [_Table(section, details, numbers, number) for number, section in enumerate(found)]
    start = next((n for n, table in enumerate(tables) if any(line.standing for line in table.section.lines)), 0)
    kinds: dict[str, list[tuple[str, str]]] = {}
    for path, reason in board.apart:
        kinds.setdefault(_kind(reason), []).append((path.as_posix(), reason))
    lines = [line for line in ledger(known, board.rows) if line.record is not None]
    parts = {
        "tables": json_text([table.script(details) for table in tables]),
        "claims": json_text([_claim(claim) for claim in known]),
        "href": json_text(href),
        **details.json(),
    }
    return html.render(
        "leaderboard.html",
        live=version is not None,
        version=version,
        title=title or (f"Suite {board.suite}" if board.suite is not None else "Leaderboard"),
        tables=tables,
        start=start,
        apart=sorted(kinds.items()),
        different=_different(board, tables),
        ledger=[_ledger_line(line) for line in lines],
        num_claims=len(known),
        far=FAR,
        data="{" + ",".join(f'"{name}":{text}' for name, text in parts.items()) + "}",
    )


_LARGE = 1000
"""Values in a table above which a browser lays out no row that is out of sight."""


class _Table:
    """One section, as the template reads it."""

    def __init__(self, section: Section, details: Details, claims: Mapping[int, int], number: int) -> None:
        self.section = section
        self._claims = claims
        self.id = f"s{number}"
        self.label = section.name or "All results"
        self.columns = [_column(column) for column in section.columns]
        self.ours = [self._line(line, details) for line in section.lines]
        self.published = [self._published(line) for line in section.published]
        self.methods = sorted({line["method"] for line in (*self.ours, *self.published) if line["method"]})
        self.architectures = sorted({line["architecture"] for line in (*self.ours, *self.published)})
        self.precisions = sorted({line.precision for line in section.lines})
        self.with_ranks = bool(section.name)
        self.is_large = len(self.ours) * len(self.columns) > _LARGE
        self.width = 7 + 3 * self.with_ranks + len(self.columns)

    def script(self, details: Details) -> dict[str, Any]:
        """Returns what the page's script needs beyond the table itself."""
        index = {line.model: number for number, line in enumerate(self.section.lines)}
        return {
            "models": [
                [line.name, line.model, [details.number(row) for row in line.rows.values()]]
                for line in self.section.lines
            ],
            "columns": [
                {
                    "name": f"{column.task} {column.dataset} {with_arrow(column.metric)}",
                    "scale": column.scale,
                    "less": less_is_better(column.metric),
                    **_pairs(column.ranks, index),
                }
                for column in self.section.columns
            ],
        }

    def _line(self, line: ModelLine, details: Details) -> dict[str, Any]:
        return {
            "name": line.name,
            "method": line.facts.method or "",
            "epochs": line.facts.epochs,
            "size": line.facts.num_parameters,
            "architecture": line.architecture,
            "precision": line.precision,
            "mean": f"{100 * line.mean:.2f}" if line.mean is not None else None,
            "present": line.present,
            "standing": line.standing,
            "cells": "".join([_cell(line, column, details) for column in self.section.columns]),
        }

    def _published(self, line: PublishedLine) -> dict[str, Any]:
        row, source = line.claim.row, line.claim.source
        values = [line.values.get((column.task, column.dataset)) for column in self.section.columns]
        return {
            "name": " ".join(filter(None, (row.method, row.views))),
            "method": row.method,
            "epochs": row.epochs,
            "architecture": row.architecture,
            "source": f"{source.source}, read {source.read}",
            "cells": [
                {"number": self._claims[id(claim)], "value": claim.value.value, "text": f"{claim.value.value:.1f}"}
                if claim is not None
                else None
                for claim in values
            ],
        }


def _column(column: Column) -> dict[str, Any]:
    return {
        "task": column.task,
        "dataset": column.dataset,
        "metric": with_arrow(column.metric),
        "less": less_is_better(column.metric),
        "mixed": column.mixed,
        "averaged": column.averaged,
        "counted": column.counted,
        "paired": column.ranks is not None and column.ranks.paired,
    }


def _cell(line: ModelLine, column: Column, details: Details) -> str:
    """Returns a value as the page's HTML: numbers alone, and by the thousand, which a template writes slowly."""
    row = line.rows.get((column.task, column.dataset))
    if row is None:
        return '<td class="none">–</td>\n'
    rank = column.ranks.rank_of[line.model] if column.ranks is not None else None
    best = " class=best" if rank == 1 and column.ranks is not None and len(column.ranks.models) > 1 else ""
    value = row.shown.value
    link = f"<a href=#r{details.number(row)} tabindex=-1{best}>{column.scale * value:.2f}</a>"
    below = interval_text(row.shown, column.scale) or "no interval"
    place = f" <b>{rank}.</b>" if rank is not None else ""
    return f"<td data-v={round(value, 5)}>{link}<span>{below}{place}</span></td>\n"


def _pairs(ranks: ColumnRanks | None, index: Mapping[str, int]) -> dict[str, Any]:
    """Returns which models of a column are told apart: one bit a pair, rows of the upper triangle, base64."""
    if ranks is None or len(ranks.models) < 2:
        return {"order": [], "bits": "", "paired": False}
    upper = np.triu_indices(len(ranks.models), 1)
    bits = np.packbits((ranks.better_MM | ranks.better_MM.T)[upper])
    return {
        "order": [index[model] for model in ranks.models],
        "bits": base64.b64encode(bits.tobytes()).decode(),
        "paired": ranks.paired,
    }


def _kind(reason: str) -> str:
    """Returns the heading under which a record that does not enter is listed."""
    for start, kind in (("departs", "Departing from their task"), ("partial", "Partial"), ("stale", "Stale")):
        if reason.startswith(start):
            return kind
    return "Not readable" if reason.startswith(UNREADABLE) else "Other"


def _different(board: Leaderboard, tables: Sequence[_Table]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Returns the columns whose records saw different copies of the data, with the models of each copy."""
    mixed = {(c["task"], c["dataset"]) for table in tables for c in table.columns if c["mixed"]}
    return [
        (" ".join(cell), [(copy[:8], ", ".join(names)) for copy, names in sorted(copies(rows).items())])
        for cell in sorted(mixed)
        if (rows := [row for row in board.rows if row.cell == cell])
    ]


def _claim(claim: Claim) -> dict[str, Any]:
    return {
        "cell": f"{claim.value.task} {claim.value.dataset} {claim.value.metric}",
        "weights": " ".join(filter(None, (claim.row.method, claim.row.architecture, claim.row.views))),
        "epochs": claim.row.epochs,
        "value": claim.value.value,
        "source": claim.source.source,
        "revision": claim.source.revision,
        "read": claim.source.read,
        "note": claim.note,
        "measure": [
            f"massl-bench run {option('task', claim.value.task)} {option('dataset', claim.value.dataset)} "
            f"{option('model', model)}"
            for model in claim.row.models
        ],
    }


def _ledger_line(line: LedgerLine) -> dict[str, Any]:
    assert line.record is not None
    claim, low_high = line.claim, line.interval
    return {
        "model": line.record.identity.model.name,
        "weights": f"{claim.row.method} {claim.row.architecture}",
        "cell": f"{claim.value.task} {claim.value.dataset} {claim.value.metric}",
        "published": f"{claim.value.value:.1f}",
        "ours": f"{line.ours:.2f}",
        "interval": f"{low_high[0]:.2f}–{low_high[1]:.2f}" if low_high is not None else "",
        "gap": f"{line.gap:+.2f}",
        "verdict": line.verdict,
        "note": claim.note or "",
        "source": claim.source.source,
    }
