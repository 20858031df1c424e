"""The page of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from massl_bench.records.comparison import LEVEL_IN_WORDS, Comparison, Refusal
from massl_bench.records.pairing import comparison_texts
from massl_bench.report import html


def comparison_page(found: Sequence[Comparison], refused: Sequence[Refusal]) -> str:
    """Returns the page: a row for each cell and model, a bar for each interval of a difference.

    Args:
        found: comparisons, corrected together.
        refused: pairs that cannot be compared.
    """
    lines = []
    reach: dict[int, float] = {}  # a rank's difference is no fraction's
    for one in found:
        scale = one.first.record.headline_scale
        reach[scale] = max(reach.get(scale, 0.0), abs(one.difference), *map(abs, one.ci95 or ()))
    for one in found:
        low, high = one.ci95 if one.ci95 is not None else (one.difference, one.difference)
        # Of 100 units, the middle being no difference.
        unit = 48 / (reach[one.first.record.headline_scale] or 1.0)
        bar = {"low": 50 + unit * low, "width": unit * (high - low), "dot": 50 + unit * one.difference}
        lines.append(comparison_texts(one) | {name: f"{place:.1f}" for name, place in bar.items()})
    refusals = [(" ".join(r.first.cell), r.first.name, r.second.name, r.reason) for r in refused]
    firsts = [one.first for one in found] + [one.first for one in refused]
    return html.render(
        "comparison.html",
        first=firsts[0].name if firsts else "",
        lines=lines,
        refused=refusals,
        level=LEVEL_IN_WORDS,
    )
