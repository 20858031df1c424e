"""The columns of a table, whatever its format: of which data their records are, their rank groups, models' names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from massl_bench.metrics.direction import less_is_better
from massl_bench.records.comparison import column_p_values
from massl_bench.records.outcomes import OutcomesOf
from massl_bench.records.ranking import ColumnRanks, rank_column
from massl_bench.records.rows import Row


def copies(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Returns the names of models by the fingerprint of their data, unknown for features that were handed in."""
    models: dict[str, list[str]] = {}
    for row in rows:
        identity = row.record.identity
        if identity.model.weights_hash_of != "features":
            models.setdefault(identity.dataset.fingerprint, []).append(row.name)
    return models


def column_ranks(rows: Sequence[Row], known: OutcomesOf) -> ColumnRanks | None:
    """Returns the rank groups of a column; None where there is no such thing.

    Only fractions that were all measured on the same data are ranked: a larger rank or exponent is not better.

    Args:
        rows: its records, which show one metric.
        known: what their items got; filled while it is asked.
    """
    if not rows or any(row.record.headline_scale != 100 for row in rows) or len(copies(rows)) > 1:
        return None
    p_MM, paired = column_p_values(rows, known)
    goodness = [-row.shown.value if less_is_better(row.metric) else row.shown.value for row in rows]
    return rank_column([row.model for row in rows], goodness, p_MM, paired=paired)


def shown_names(latest: Mapping[str, Row]) -> dict[str, str]:
    """Returns what a table calls its models, by what tells them apart: two of one name have their hashes behind it.

    Args:
        latest: the latest record of each.
    """
    names = {model: row.name for model, row in latest.items()}
    count = Counter(names.values())
    return {model: with_hash(name, model) if count[name] > 1 else name for model, name in names.items()}


def with_hash(name: str, model: str) -> str:
    """Returns a name with the beginning of what tells its model apart: of features that were handed in, the word."""
    return f"{name} ({model[:8]})"
