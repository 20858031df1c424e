"""The page of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from massl_bench.records.comparison import LEVEL_IN_WORDS, Comparison, Refusal, p_text, verdict
from massl_bench.report import html


def comparison_page(found: Sequence[Comparison], refused: Sequence[Refusal]) -> str:
    """Returns the page: a row for each cell and model, a bar for each interval of a difference.

    Args:
        found: comparisons, corrected together.
        refused: pairs that cannot be compared.
    """
    lines = []
    reach = max((abs(end) for one in found for end in one.ci95 or ()), default=0.0) or 1.0
    for one in found:
        scale = one.first.record.headline_scale
        low, high = one.ci95 if one.ci95 is not None else (one.difference, one.difference)
        lines.append(
            {
                "cell": f"{' '.join(one.first.cell)} {one.first.metric}",
                "model": one.second.record.identity.model.name,
                "first": f"{scale * one.first.shown.value:.2f}",
                "second": f"{scale * one.second.shown.value:.2f}",
                "difference": f"{scale * one.difference:+.2f}",
                "interval": f"{scale * low:+.2f} to {scale * high:+.2f}" if one.ci95 is not None else "none",
                "counts": f"{one.better} : {one.worse}" if one.better is not None else "",
                "p": p_text(one),
                "verdict": verdict(one),
                "test": one.test,
                "note": one.note or "",
                # Of 100 units, the middle being no difference.
                "low": f"{50 + 48 * low / reach:.1f}",
                "width": f"{48 * (high - low) / reach:.1f}",
                "dot": f"{50 + 48 * one.difference / reach:.1f}",
            }
        )
    refusals = [
        (" ".join(r.first.cell), r.first.record.identity.model.name, r.second.record.identity.model.name, r.reason)
        for r in refused
    ]
    firsts = [one.first for one in found] + [one.first for one in refused]
    return html.render(
        "comparison.html",
        first=firsts[0].record.identity.model.name if firsts else "",
        lines=lines,
        refused=refusals,
        level=LEVEL_IN_WORDS,
    )
