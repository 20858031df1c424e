"""Which end of a metric is the better one."""

from __future__ import annotations

_ERRORS = frozenset({"mce", "mce_plain"})
"""Beside what ends in `error`."""

ARROW = "↓"
"""Behind the name of a metric of which less is better, where people read it."""


def less_is_better(metric: str) -> bool:
    """Tells whether the smaller of two values of a metric is the better one: of errors, whatever is behind their `@`.

    Of another package's metric its name tells: `error`, `top1_error@20`.
    """
    name = metric.partition("@")[0]
    return name in _ERRORS or name.endswith("error")


def with_arrow(metric: str) -> str:
    """Returns a metric's name as people read it: with an arrow where less is better."""
    return f"{metric} {ARROW}" if less_is_better(metric) else metric
