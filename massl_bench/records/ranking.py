"""Who is better than whom: rank groups in a column of a table, and ranks over the columns of a suite.

Two models of a column are different where the difference between them is significant at 5 %, by a test on the items
that both were measured on or, where a record has no items, by their intervals. The tests of a column are corrected by
Holm, so that the chance of any wrong distinction in it is at most 5 %. A model's rank is one more than the number of
models that are significantly better: models that cannot be told apart share a rank, and rank 1 is the best group.

Shapes: M models, C columns, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from massl_bench.metrics.paired import normal_p_values
from massl_bench.records.record import Metric

LEVEL = 0.05
_RESAMPLES = 1000
_SEED = 0
_Z95 = 1.959963984540054
"""Half the width of a 95 % interval, in standard errors."""


def interval_p_values(shown: Sequence[Metric]) -> NDArray[np.float64]:
    """Returns two-sided p-values of all pairs from values and intervals alone, [M, M]; 1 where an interval is missing.

    The test takes the two measurements as independent. On the same items they mostly rise and fall together, so that it
    finds fewer differences than a paired test does, not more.
    """
    value_M = np.array([metric.value for metric in shown])
    half_M = np.array([(m.ci95[1] - m.ci95[0]) / 2 if m.ci95 is not None else np.inf for m in shown])
    one, other = np.triu_indices(len(shown), 1)
    p_MM = np.eye(len(shown))
    p_MM[one, other] = normal_p_values(value_M[one] - value_M[other], np.hypot(half_M[one], half_M[other]) / _Z95)
    return np.maximum(p_MM, p_MM.T)


def holm(p_values: NDArray[np.float64], level: float = LEVEL) -> NDArray[np.bool_]:
    """Returns which of several tests are significant when all are corrected together (Holm, 1979).

    The smallest p-value is held against level / n, the next one against level / (n − 1), …, up to the first that is
    larger.
    """
    ordered = np.sort(p_values)
    passed = np.logical_and.accumulate(ordered <= level / np.arange(len(p_values), 0, -1))
    count = np.count_nonzero(passed)
    # Equal p-values pass together: the bars rise.
    return p_values <= ordered[count - 1] if count else np.zeros(len(p_values), dtype=bool)


@dataclass(frozen=True, kw_only=True, eq=False)
class ColumnRanks:
    """The rank groups of one column.

    Attributes:
        models: M, as in `Row.model`.
        rank: M, from 1.
        better_MM: whether the model of a row is significantly better than that of a column.
        paired: whether every pair was tested on its items; otherwise some by their intervals.
    """

    models: tuple[str, ...]
    rank: tuple[int, ...]
    better_MM: NDArray[np.bool_]
    paired: bool

    @cached_property
    def rank_of(self) -> Mapping[str, int]:
        """The rank by model."""
        return dict(zip(self.models, self.rank, strict=True))


def rank_column(
    models: Sequence[str], values: Sequence[float], p_MM: NDArray[np.float64], *, paired: bool
) -> ColumnRanks:
    """Returns the rank groups of the models of a column.

    Args:
        models: M names.
        values: what they reached; more is better (of errors, the negative ones).
        p_MM: two-sided p-value of each pair's difference; symmetric.
        paired: whether all of them come from tests on items.
    """
    count = len(models)
    upper = np.triu_indices(count, 1)
    different_MM = np.zeros((count, count), dtype=bool)
    different_MM[upper] = holm(p_MM[upper])
    different_MM |= different_MM.T
    value_M = np.asarray(values)
    better_MM = different_MM & (value_M[:, None] > value_M[None, :])
    rank = tuple(int(number) for number in 1 + better_MM.sum(axis=0))
    return ColumnRanks(models=tuple(models), rank=rank, better_MM=better_MM, paired=paired)


@dataclass(frozen=True, kw_only=True)
class SuiteRank:
    """Where a model stands over the columns of a suite.

    Attributes:
        mean_rank: mean of its ranks in the columns.
        borda: points: in each column 1 for each model that it is significantly better than, ½ for each that it cannot
            be told apart from.
        position: 1 for the most points; equal points share a position.
        interval: 95 % interval of the position, over suites of as many columns drawn from this one's with replacement.
    """

    mean_rank: float
    borda: float
    position: int
    interval: tuple[int, int]


def rank_suite(columns: Sequence[ColumnRanks], models: Sequence[str]) -> Mapping[str, SuiteRank]:
    """Returns where each of some models stands, among them; all of them are in every column.

    Everything is counted in whole numbers, twice the points, so that the result is the same on every machine.
    """
    if not columns or not models:
        return {}
    points_CM, rank_CM = (np.zeros((len(columns), len(models)), dtype=np.int64) for _ in range(2))
    for number, column in enumerate(columns):
        rows = [column.models.index(model) for model in models]
        better_MM = column.better_MM[np.ix_(rows, rows)]
        wins_M, losses_M = better_MM.sum(axis=1), better_MM.sum(axis=0)
        points_CM[number] = 2 * wins_M + (len(models) - 1 - wins_M - losses_M)
        rank_CM[number] = 1 + losses_M
    position_M = _positions(points_CM.sum(axis=0)[None])[0]
    drawn_RC = np.random.default_rng(_SEED).integers(0, len(columns), size=(_RESAMPLES, len(columns)))
    count_RC = np.zeros((_RESAMPLES, len(columns)), dtype=np.int64)
    np.add.at(count_RC, (np.arange(_RESAMPLES)[:, None], drawn_RC), 1)
    position_RM = np.sort(_positions(count_RC @ points_CM), axis=0)
    low, high = position_RM[int(0.025 * _RESAMPLES)], position_RM[math.ceil(0.975 * _RESAMPLES) - 1]
    return {
        model: SuiteRank(
            mean_rank=float(rank_CM[:, m].sum() / len(columns)),
            borda=float(points_CM[:, m].sum() / 2),
            position=int(position_M[m]),
            interval=(int(low[m]), int(high[m])),
        )
        for m, model in enumerate(models)
    }


def _positions(points_RM: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns for each model 1 + the number of models with more points, [R, M]."""
    ordered_RM = np.sort(points_RM, axis=1)
    not_more_RM = [np.searchsorted(o, p, side="right") for o, p in zip(ordered_RM, points_RM, strict=True)]
    position_RM: NDArray[np.int64] = points_RM.shape[1] - np.stack(not_more_RM) + 1
    return position_RM
