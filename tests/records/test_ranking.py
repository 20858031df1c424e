"""Rank groups and ranks over a suite, against SciPy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from massl_bench.records.ranking import holm, interval_p_values, rank_column, rank_suite
from massl_bench.records.record import Metric


def test_p_values_from_intervals_are_those_of_a_z_test() -> None:
    shown = [Metric(value=0.70, ci95=(0.68, 0.72)), Metric(value=0.74, ci95=(0.71, 0.77)), Metric(value=0.9)]
    found = interval_p_values(shown)
    error = np.hypot(0.02, 0.03) / stats.norm.ppf(0.975)
    assert found[0, 1] == pytest.approx(2 * stats.norm.sf(0.04 / error), rel=1e-12)
    assert np.array_equal(found, found.T)
    assert found[0, 2] == 1.0  # a value without an interval is not told apart from any other
    assert found[0, 0] == 1.0


def test_equal_values_without_width_are_not_told_apart_and_others_are() -> None:
    shown = [Metric(value=v, ci95=(v, v)) for v in (0.5, 0.5, 0.6)]
    found = interval_p_values(shown)
    assert found[0, 1] == 1.0
    assert found[0, 2] == 0.0


def test_holm_by_hand() -> None:
    """Levels 0.05/4, /3, /2, /1: 0.02 is above 0.0167, so that it and all behind it stay undecided."""
    assert holm(np.array([0.02, 0.01, 0.04, 0.03])).tolist() == [False, True, False, False]
    assert holm(np.array([0.015, 0.012, 0.02, 0.03])).tolist() == [True] * 4
    assert holm(np.array([])).tolist() == []


def test_a_rank_is_one_more_than_the_number_of_better_models() -> None:
    """a > c is significant, a and b are not told apart, neither are b and c."""
    p = np.array([[1, 0.3, 0.001], [0.3, 1, 0.2], [0.001, 0.2, 1]])
    ranks = rank_column(["a", "b", "c"], [0.8, 0.78, 0.75], p, paired=True)
    assert ranks.rank_of == {"a": 1, "b": 1, "c": 2}
    assert ranks.better_MM.tolist() == [[False, False, True], [False] * 3, [False] * 3]


def test_a_suite_by_hand() -> None:
    """Column 1: a above b and c; column 2: b above c alone. Points: a 2 + 1, b ½ + 1½, c ½ + ½."""
    one = rank_column(["a", "b", "c"], [0.9, 0.5, 0.5], np.array([[1, 0, 0], [0, 1, 1], [0, 1, 1.0]]), paired=True)
    two = rank_column(["c", "b", "a"], [0.4, 0.6, 0.5], np.array([[1, 0, 1], [0, 1, 1], [1, 1, 1.0]]), paired=True)
    found = rank_suite([one, two], ["a", "b", "c"])
    assert {m: (s.mean_rank, s.borda, s.position) for m, s in found.items()} == {
        "a": (1.0, 3.0, 1), "b": (1.5, 2.0, 2), "c": (2.0, 1.0, 3),
    }  # fmt: skip
    # Drawn twice, column 2 alone puts b first (2 points of 2 × 1½ against 2 × 1), and column 1 alone puts a first.
    assert found["a"].interval == (1, 2)
    assert found["b"].interval == (1, 2)
    assert found["c"].interval == (2, 3)


def test_the_rank_of_a_suite_of_one_column_is_certain() -> None:
    one = rank_column(["a", "b"], [0.9, 0.5], np.array([[1, 0], [0, 1.0]]), paired=True)
    assert rank_suite([one], ["a", "b"])["b"].interval == (2, 2)
    assert rank_suite([], ["a"]) == {}
