"""Average precision of rankings that are short enough to work out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from massl_bench.core.values import Resampled
from massl_bench.metrics.multilabel import (
    lacking,
    mean_average_precision,
    scored,
)
from massl_bench.metrics.paired import all_resampled_pairs, compare_resampled

SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
PRESENT = np.array([False, True, False, True, True])


def of_one_class(present_N: NDArray[np.bool_]) -> tuple[float, float]:
    """Returns (interpolated, 11-point) average precision under `SCORES`."""
    labels = np.where(present_N, 1, -1).astype(np.int8)
    return mean_average_precision(SCORES[:, None], labels[:, None], difficult_is_negative=True)[:2]


def test_interpolated_by_hand() -> None:
    # Precision at the positives: 1/2, 2/4, 3/5; the largest at or behind each: 3/5, 3/5, 3/5.
    assert of_one_class(PRESENT)[0] == pytest.approx(3 / 5)
    # 1, 2/3 and 3/5: nothing behind is larger.
    assert of_one_class(np.array([1, 0, 1, 0, 1], dtype=bool))[0] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_eleven_points_by_hand() -> None:
    # Recalls 0 to .3 are reached with the first positive, .4 to .6 with the second, .7 to 1 with the third.
    value = of_one_class(np.array([1, 0, 1, 0, 1], dtype=bool))[1]
    assert value == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11)


def test_difficult_items_are_negative_or_left_out() -> None:
    scores, labels = SCORES[:, None], np.array([0, 1, -1, 1, 1], dtype=np.int8)[:, None]
    as_negative, _, _ = mean_average_precision(scores, labels, difficult_is_negative=True)
    left_out, _, _ = mean_average_precision(scores, labels, difficult_is_negative=False)
    assert as_negative == pytest.approx(3 / 5)
    assert left_out == pytest.approx((1 + 3 / 4 + 3 / 4) / 3)  # 1/1, then 2/3 and 3/4: 3/4 lies behind 2/3


def test_a_class_without_positives_leaves_the_mean_and_is_counted() -> None:
    scores = np.stack([SCORES, SCORES], axis=1)
    labels = np.stack([np.where(PRESENT, 1, -1), np.full(5, -1)], axis=1).astype(np.int8)
    score, _ = scored(scores, labels, difficult_is_negative=False, resamples=50, rng=np.random.default_rng(0))
    assert score.value == pytest.approx(3 / 5)
    assert score.details == {"classes_left_out": 1}


@pytest.mark.parametrize("difficult_is_negative", [False, True])
def test_a_class_without_negatives_leaves_the_mean_and_its_resamples(difficult_is_negative: bool) -> None:
    scores = np.stack([SCORES, SCORES], axis=1)
    everywhere = [1, 1, 1, 1, 1] if difficult_is_negative else [1, 0, 1, 1, 0]
    labels = np.stack([np.where(PRESENT, 1, -1), everywhere], axis=1).astype(np.int8)
    how = {"difficult_is_negative": difficult_is_negative}
    assert mean_average_precision(scores, labels, **how)[::2] == (pytest.approx(3 / 5), 1)
    both, alone = (
        scored(scores[:, :count], labels[:, :count], **how, resamples=50, rng=np.random.default_rng(0))[0]
        for count in (2, 1)
    )
    assert both.ci95 == alone.ci95
    assert {word: classes.tolist() for word, classes in lacking(labels, **how).items()} == {
        "positive": [],
        "negative": [1],
    }


def test_perfect_scores_give_one_and_their_order_is_all_that_counts() -> None:
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((200, 3)) < 0.3, 1, -1).astype(np.int8)
    assert mean_average_precision(labels.astype(float), labels, difficult_is_negative=True)[:2] == (1.0, 1.0)
    scores = rng.standard_normal((200, 3))
    one = mean_average_precision(scores, labels, difficult_is_negative=True)
    assert mean_average_precision(8 * scores + 1, labels, difficult_is_negative=True) == one
    order = rng.permutation(200)
    assert mean_average_precision(scores[order], labels[order], difficult_is_negative=True) == pytest.approx(one)


@pytest.mark.parametrize("signal", [0.0, 1.5])  # scores that know nothing, and scores that know something
def test_intervals_hold_the_mean_of_fresh_data(signal: float) -> None:
    rng = np.random.default_rng(0)

    def sample() -> tuple[NDArray[Any], NDArray[Any]]:
        labels = np.where(rng.random((400, 10)) < 0.1, 1, -1).astype(np.int8)
        return signal * labels / 2 + rng.standard_normal(labels.shape), labels

    fresh = np.mean([mean_average_precision(*sample(), difficult_is_negative=False)[:2] for _ in range(60)], axis=0)
    held = np.zeros(2)
    for _ in range(20):
        scores = scored(*sample(), difficult_is_negative=False, resamples=100, rng=rng)
        for metric, score in enumerate(scores):
            low, high = score.ci95
            assert low < score.value < high
            assert high - low < 0.15
            held[metric] += low < fresh[metric] < high
    assert (held >= 16).all()


def drawn(scores: NDArray[Any], labels: NDArray[Any], seed: int = 0) -> Resampled:
    """The resamples of the mAP of scores."""
    rng = np.random.default_rng(seed)
    resampled = scored(scores, labels, difficult_is_negative=False, resamples=100, rng=rng)[0].resampled
    assert resampled is not None
    return resampled


def test_two_models_are_drawn_the_same_resamples() -> None:
    """Which share a key, and lie near each other where the models do; of other draws or items, the key is another."""
    rng = np.random.default_rng(1)
    labels = np.where(rng.random((150, 4)) < 0.3, 1, -1).astype(np.int8)
    one = labels / 2 + rng.standard_normal(labels.shape)
    near = one + 0.1 * rng.standard_normal(labels.shape)
    first, second = drawn(one, labels), drawn(near, labels)
    assert first.key == second.key
    assert np.corrcoef(first.values, second.values)[0, 1] > 0.9
    assert len({first.key, drawn(one, labels, seed=1).key, drawn(one, labels[::-1]).key}) == 3


def test_the_paired_bootstrap_holds_its_level_and_finds_what_intervals_do_not() -> None:
    rng = np.random.default_rng(2)
    called, found, found_by_intervals = 0, 0, 0
    for _ in range(50):
        labels = np.where(rng.random((100, 3)) < 0.4, 1, -1).astype(np.int8)
        image = labels / 2 + rng.standard_normal(labels.shape)  # what both models see
        scores = [image + noise * rng.standard_normal(labels.shape) for noise in (0.3, 0.3, 0.9)]
        value = [mean_average_precision(each, labels, difficult_is_negative=False)[0] for each in scores]
        draws = [drawn(each, labels).values for each in scores]
        _, equal = compare_resampled(value[1] - value[0], draws[0], draws[1])
        interval, worse = compare_resampled(value[2] - value[0], draws[0], draws[2])
        assert interval[0] < value[2] - value[0] < interval[1]
        called, found = called + (equal < 0.05), found + (worse < 0.05)
        apart = abs(value[2] - value[0]) / np.hypot(draws[0].std(), draws[2].std())
        found_by_intervals += apart > 1.96
        p_MM = all_resampled_pairs(np.array(value), np.stack(draws))
        np.testing.assert_allclose(p_MM[[0, 2, 0], [1, 0, 0]], [equal, worse, 1.0])
    assert called <= 6
    assert found > found_by_intervals + 10
