"""Ranks by hand, and the multinomial bootstrap against the plain one."""

from __future__ import annotations

import numpy as np

from massl_bench.metrics.classification import accuracy, rank_of_label


def test_rank_counts_larger_scores_and_equal_ones_of_lower_classes() -> None:
    scores = np.array([[0.0, 3.0, 1.0], [2.0, 2.0, 2.0], [0.0, 0.0, 0.0], [5.0, 1.0, 1.0]])
    #  own class 1: first · own 2: classes 0 and 1 tie before it · own 0: ties do not precede it · own 2: 0, then 1
    assert rank_of_label(scores, np.array([1, 2, 0, 2])).tolist() == [0, 2, 0, 2]


def test_accuracies_by_hand() -> None:
    # Class 4 has 3 of 4 right, class 9 none of 1: 3/5 over items, (3/4 + 0)/2 over classes.
    correct = np.array([True, True, True, False, False])
    labels = np.array([4, 4, 4, 4, 9])
    top, mean = accuracy(correct, labels, resamples=50, rng=np.random.default_rng(0))
    assert top.value == 0.6
    assert mean.value == 0.375


def test_one_item_has_a_degenerate_interval() -> None:
    top, mean = accuracy(np.array([True]), np.array([3]), resamples=20, rng=np.random.default_rng(0))
    assert top.ci95 == (1.0, 1.0)
    assert mean.ci95 == (1.0, 1.0)


def test_the_intervals_are_those_of_resampled_items() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 300)
    correct = rng.random(300) < np.array([0.9, 0.7, 0.5, 0.2])[labels]
    top, mean = accuracy(correct, labels, resamples=20_000, rng=rng)
    draws = rng.integers(0, 300, (20_000, 300))
    plain_top = correct[draws].mean(axis=1)
    per_class = [
        (correct[draws] & (labels[draws] == c)).sum(1) / np.maximum((labels[draws] == c).sum(1), 1) for c in range(4)
    ]
    assert top.ci95 is not None
    assert mean.ci95 is not None
    np.testing.assert_allclose(top.ci95, np.quantile(plain_top, (0.025, 0.975)), atol=0.004)
    np.testing.assert_allclose(mean.ci95, np.quantile(np.mean(per_class, axis=0), (0.025, 0.975)), atol=0.004)
