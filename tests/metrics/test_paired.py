"""Paired tests against SciPy's, on simulated pairs, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from massl_bench.metrics.paired import all_pairs, compare_items, exact_p_value


@pytest.mark.parametrize(
    ("better", "worse"), [(0, 0), (1, 0), (5, 5), (12, 3), (3, 12), (0, 7), (550, 450), (900, 100)]
)
def test_exact_p_values_are_scipys(better: int, worse: int) -> None:
    expected = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert exact_p_value(np.array(better), np.array(worse)) == pytest.approx(expected, rel=1e-9)


def pair(rng: np.random.Generator, better: float, worse: float, count: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    """Two models that differ on parts of the items, one way and the other."""
    drawn = rng.random(count)
    first = rng.random(count) < 0.7
    first = np.where(drawn < better, False, np.where(drawn < better + worse, True, first))
    second = np.where(drawn < better, True, np.where(drawn < better + worse, False, first))
    return first, second


def test_equal_models_are_called_different_as_often_as_said() -> None:
    """The exact test is a little careful: of 1,000 pairs of equal models 3 to 7 % are called different."""
    rng = np.random.default_rng(0)
    differing = rng.binomial(10_000, 0.1, size=1000)
    better = rng.binomial(differing, 0.5)
    share = (exact_p_value(better, differing - better) < 0.05).mean()
    assert 0.03 <= share <= 0.07


def test_a_point_on_ten_thousand_items_is_found() -> None:
    """90 % agreement: 550 items better, 450 worse."""
    first = np.zeros(10_000, dtype=bool)
    second = first.copy()
    first[:450], second[450:1000] = True, True
    found = compare_items(first, second, rng=np.random.default_rng(0))
    assert (found.better, found.worse) == (550, 450)
    assert found.value == pytest.approx(0.01)
    assert found.p_value == pytest.approx(stats.binomtest(550, 1000).pvalue)
    assert found.p_value < 0.05
    assert 0 < found.ci95[0] < 0.01 < found.ci95[1]


def test_the_interval_is_that_of_resampled_items() -> None:
    """The counts are drawn directly; resampling the items one by one gives the same interval."""
    rng = np.random.default_rng(1)
    first, second = pair(rng, 0.12, 0.05, count=500)
    found = compare_items(first, second, rng=rng)
    gained = second.astype(float) - first
    drawn = np.array([gained[rng.integers(500, size=500)].mean() for _ in range(10_000)])
    assert found.ci95 == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.003)


def test_its_cover() -> None:
    """Of 300 intervals of a true difference of 3 points, 90 to 99 % hold it."""
    rng = np.random.default_rng(2)
    found = [compare_items(*pair(rng, 0.10, 0.07, 2000), rng=rng, resamples=500).ci95 for _ in range(300)]
    assert 0.90 <= np.mean([low <= 0.03 <= high for low, high in found]) <= 0.99


def test_values_that_are_no_right_and_wrong() -> None:
    """Average precisions: the sign test over the items that differ."""
    first, second = np.array([0.1, 0.5, 0.5, 0.25]), np.array([0.2, 0.5, 0.75, 0.125])
    found = compare_items(first, second, rng=np.random.default_rng(0))
    assert (found.better, found.worse) == (2, 1)
    assert found.p_value == pytest.approx(stats.binomtest(2, 3).pvalue)
    assert found.value == pytest.approx(0.05625)
    many = np.random.default_rng(3).random(3000)
    assert compare_items(many, many, rng=np.random.default_rng(0)).p_value == 1.0
    low, high = compare_items(many, many[::-1], rng=np.random.default_rng(0)).ci95
    assert low < 0 < high
    assert high - low == pytest.approx(2 * 1.96 * np.std(many[::-1] - many) / np.sqrt(3000), rel=0.1)


@pytest.mark.parametrize("binary", [True, False])
def test_all_pairs_are_the_single_ones(binary: bool) -> None:
    rng = np.random.default_rng(4)
    items = rng.random((5, 300))
    columns = items < np.linspace(0.4, 0.6, 5)[:, None] if binary else items.round(1)
    found = all_pairs(columns)
    for one in range(5):
        for other in range(5):
            single = compare_items(columns[one], columns[other], rng=rng, resamples=1)
            assert found[one, other] == pytest.approx(single.p_value, rel=1e-12)


def test_other_numbers_of_items_are_refused() -> None:
    with pytest.raises(ValueError, match="as many items"):
        compare_items(np.zeros(3), np.zeros(4), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="as many items"):
        compare_items(np.zeros(0), np.zeros(0), rng=np.random.default_rng(0))
