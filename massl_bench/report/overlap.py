"""The page of what two datasets have in common: the pairs, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from massl_bench.core.galleries import Gallery, Look
from massl_bench.report import html
from massl_bench.report.looks import shown_look


def overlap_page(a: str, b: str, facts: Sequence[tuple[str, str]], galleries: Sequence[Gallery]) -> str:
    """Returns the page.

    Args:
        a: the dataset whose images were looked for.
        b: where.
        facts: what a reader must know, in words.
        galleries: the pairs by kind.
    """
    look = Look(dataset=b, galleries=galleries)
    return html.render(
        "models.html",
        models=[a, b],
        facts=[("How they were found", list(facts))],
        sections=[],
        looks=[shown_look(f"Images of {a}", look)],
        views=[],
        num_images=look.num_images,
    )
