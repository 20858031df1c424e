"""The formats of a leaderboard, by name.

Another package adds formats by entry points of the group `massl_bench.formats`: a name, and a module that defines
`write`, which takes a `Leaderboard` and a `Setting` and returns a text. It escapes what it is given: names in records
are anybody's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from massl_bench.records.rows import Leaderboard
from massl_bench.records.tables import to_csv, to_json_text, to_latex, to_markdown
from massl_bench.specs.plugins import FORMATS_GROUP, added_modules
from massl_bench.specs.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where a table is shown."""

    registry: Registry
    """Says what tasks and datasets are."""
    href: str = ""
    """What stands before a record's path in a link."""
    width: int | None = None
    """Characters of a terminal's line; None where it is no terminal."""


Writer = Callable[[Leaderboard, Setting], str]


def _html(board: Leaderboard, setting: Setting) -> str:
    from massl_bench.report.page import leaderboard_page

    return leaderboard_page(board, setting.registry, href=setting.href)


FORMATS: Mapping[str, Writer] = {
    "md": lambda board, setting: to_markdown(board, setting.width),
    "csv": lambda board, _: to_csv(board),
    "json": lambda board, _: to_json_text(board),
    "html": _html,
    "latex": lambda board, _: to_latex(board),
    "latex-intervals": lambda board, _: to_latex(board, intervals=True),
}
"""This package's own."""


def formats() -> Mapping[str, Callable[[], Writer]]:
    """Returns what loads the writer of every format that there is, by name: this package's own, then those of others.

    Raises:
        SpecError: Two packages add a format of one name, or one has a name of this package's own.
    """
    own = {name: partial(_itself, writer) for name, writer in FORMATS.items()}
    return own | {name: plugin.load for name, plugin in added_modules(FORMATS_GROUP, own).items()}


def _itself(writer: Writer) -> Writer:
    return writer
