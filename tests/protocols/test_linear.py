"""`linear` against scikit-learn on the same input, and on data with known answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from massl_bench.core.errors import CellError, RequestError
from massl_bench.learners.logistic import Stopping, fit
from massl_bench.learners.principal_axes import Rows, principal_axes
from massl_bench.protocols import linear
from massl_bench.protocols.shared.selection import hold_out
from tests.protocols.banks import evaluation

STOPPING = Stopping(tolerance=1e-3, max_iterations=1000)
PARAMS = linear.Params(
    log10_c_min=-6.0,
    log10_c_max=5.0,
    num_c=45,
    validation_share=0.1,
    min_held_out=30,
    tolerance=1e-3,
    max_iterations=1000,
    bootstrap_resamples=200,
)


def correlated(
    rng: np.random.Generator, *, count: int = 1500, dims: int = 30, classes: int = 5, noise: float = 2.5
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Gaussian classes in a badly conditioned basis, as real features are."""
    mixing = rng.standard_normal((dims, dims)) * np.geomspace(1, 0.01, dims)
    labels = rng.integers(classes, size=count)
    centres = rng.standard_normal((classes, dims))
    features = (centres[labels] + noise * rng.standard_normal((count, dims))) @ mixing
    return features.astype(np.float32), labels


def standardised(train: NDArray[Any], *others: NDArray[Any]) -> list[NDArray[Any]]:
    mean, std = train.mean(0), train.std(0)
    return [((each - mean) / std).astype(np.float32) for each in (train, *others)]


def test_every_strength_agrees_with_scikit_learn(single_label: dict[str, NDArray[Any]]) -> None:
    train, labels = single_label["train_features"], single_label["train_labels"]
    test, truth = single_label["test_features"], single_label["test_labels"]
    strengths = 10 ** np.linspace(-6, 5, 12)
    ours = fit(train, labels, 12, strengths, STOPPING)
    assert ours.converged_P.all()
    scaled, scaled_test = standardised(train, test)
    for problem, strength in enumerate(strengths):
        theirs = LogisticRegression(C=strength, max_iter=1000, tol=1e-4).fit(scaled, labels)
        accuracy = (ours.scores(test, problem).argmax(1) == truth).mean()
        assert accuracy == pytest.approx(theirs.score(scaled_test, truth), abs=0.005), strength


def test_solution_equals_the_tightly_converged_one_of_scikit_learn(rng: np.random.Generator) -> None:
    features, labels = correlated(rng)
    tight = fit(features, labels, 5, np.array([1e-3, 1.0, 100.0]), Stopping(tolerance=1e-4, max_iterations=1000))
    (scaled,) = standardised(features)
    for problem, strength in enumerate((1e-3, 1.0, 100.0)):
        theirs = LogisticRegression(C=strength, max_iter=5000, tol=1e-8).fit(scaled.astype(np.float64), labels)
        np.testing.assert_allclose(
            torch.from_numpy(tight.scores(features, problem)).softmax(1).numpy(),
            theirs.predict_proba(scaled),
            atol=2e-3,
        )


@pytest.mark.parametrize("strength", [1.0, 100.0, 1e4])
def test_weak_directions_are_solved_too(strength: float) -> None:
    """Newton's method in float64 is the truth; scikit-learn's L-BFGS in float32 stops before the weak directions."""
    rng = np.random.default_rng(0)
    features, labels = correlated(rng, count=2000, dims=40, classes=6, noise=4)
    test, truth = features[1000:], labels[1000:]
    features, labels = features[:1000], labels[:1000]
    predicted = fit(features, labels, 6, np.array([strength]), STOPPING).scores(test).argmax(1)
    mean, std = features.mean(0), features.std(0)
    exact = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-10, max_iter=200)
    exact.fit(((features - mean) / std).astype(np.float64), labels)
    assert (predicted == exact.predict(((test - mean) / std).astype(np.float64))).mean() >= 0.995
    assert (predicted == truth).mean() == pytest.approx(
        exact.score(((test - mean) / std).astype(np.float64), truth), abs=0.002
    )


def test_one_vs_rest_equals_binary_problems_without_their_difficult_items(rng: np.random.Generator) -> None:
    features, classes = correlated(rng, count=600, dims=12, classes=3)
    labels = np.where(classes[:, None] == np.arange(3), 1, -1).astype(np.int8)
    labels[rng.random(labels.shape) < 0.1] = 0
    ours = fit(features, labels, 3, np.array([0.1]), Stopping(tolerance=1e-4, max_iterations=500))
    (scaled,) = standardised(features)
    for index in range(3):
        counted = labels[:, index] != 0
        theirs = LogisticRegression(C=0.1, max_iter=5000, tol=1e-8).fit(
            scaled[counted].astype(np.float64), labels[counted, index]
        )
        np.testing.assert_allclose(ours.scores(features)[:, index], theirs.decision_function(scaled), atol=5e-3)


def test_fewer_items_than_dimensions_has_the_same_solution(rng: np.random.Generator) -> None:
    features, labels = correlated(rng, count=40, dims=100, classes=3)
    ours = fit(features, labels, 3, np.array([1.0]), Stopping(tolerance=1e-4, max_iterations=500))
    (scaled,) = standardised(features)
    theirs = LogisticRegression(C=1.0, max_iter=5000, tol=1e-8).fit(scaled.astype(np.float64), labels)
    np.testing.assert_allclose(
        torch.from_numpy(ours.scores(features)).softmax(1).numpy(), theirs.predict_proba(scaled), atol=2e-3
    )


def test_constant_dimensions_change_nothing(rng: np.random.Generator) -> None:
    features, labels = correlated(rng, count=300, dims=8, classes=3)
    padded = np.concatenate([features, np.full((300, 2), 1e6, dtype=np.float32)], axis=1)
    one, other = (fit(each, labels, 3, np.array([1.0]), STOPPING).scores(each) for each in (features, padded))
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert (principal_axes(Rows(padded)).inverse_std_D[-2:] == 0).all()


def test_selection_takes_the_strength_that_scikit_learn_would(single_label: dict[str, NDArray[Any]]) -> None:
    data = evaluation(
        12,
        train=(single_label["train_features"], single_label["train_labels"]),
        test=(single_label["test_features"], single_label["test_labels"]),
    )
    scores = linear.run(data, PARAMS, np.random.default_rng(0))
    held_out = hold_out(single_label["train_labels"], 0.1, np.random.default_rng(0))
    fitted = np.setdiff1d(np.arange(3000), held_out)
    assert len(held_out) in (300, 301)
    train, labels = single_label["train_features"], single_label["train_labels"]
    scaled, scaled_held_out = standardised(train[fitted], train[held_out])
    strengths = 10 ** np.linspace(-6, 5, 45)
    values = [
        LogisticRegression(C=c, max_iter=1000, tol=1e-4)
        .fit(scaled, labels[fitted])
        .score(scaled_held_out, labels[held_out])
        for c in strengths
    ]
    scaled, scaled_test = standardised(train, single_label["test_features"])
    best = LogisticRegression(C=strengths[np.argmax(values)], max_iter=1000, tol=1e-4).fit(scaled, labels)
    assert scores["top1"].details["selection_value"] == pytest.approx(max(values), abs=1 / 300)
    assert scores["top1"].value == pytest.approx(best.score(scaled_test, single_label["test_labels"]), abs=0.003)


def test_official_validation_split_selects_and_joins_the_refit(rng: np.random.Generator) -> None:
    features, labels = correlated(rng, count=900)
    data = evaluation(
        5,
        train=(features[:300], labels[:300]),
        val=(features[300:600], labels[300:600]),
        test=(features[600:], labels[600:]),
    )
    score = linear.run(data, PARAMS, rng)["top1"]
    assert score.details["selection_split"] == "val"
    refit = fit(features[:600], labels[:600], 5, np.array([score.details["C"]]), STOPPING)
    assert score.value == (refit.scores(features[600:]).argmax(1) == labels[600:]).mean()


def test_the_validation_part_of_the_training_split_selects(rng: np.random.Generator) -> None:
    features, labels = correlated(rng, count=900)
    data = evaluation(5, train=(features[:600], labels[:600]), test=(features[600:], labels[600:]))
    joined = replace(data, banks={**data.banks, "train": replace(data.banks["train"], validation_from=350)})
    score = linear.run(joined, PARAMS, rng)["top1"]
    assert score.details["selection_split"] == "val, the last 250 of 600 train"
    apart = evaluation(
        5,
        train=(features[:350], labels[:350]),
        val=(features[350:600], labels[350:600]),
        test=(features[600:], labels[600:]),
    )
    expected = linear.run(apart, PARAMS, rng)["top1"]
    assert score.value == expected.value
    assert [score.details[name] for name in ("C", "selection_value")] == [
        expected.details[name] for name in ("C", "selection_value")
    ]


def test_several_labels_of_which_no_held_out_image_shows_one(rng: np.random.Generator) -> None:
    labels = np.tile([[1, -1], [-1, 1], [1, 1], [-1, -1]], (10, 1)).astype(np.int8)
    features = rng.standard_normal((40, 3))
    data = evaluation(2, train=(features, labels), test=(features, labels))
    rows = np.flatnonzero((labels == -1).all(axis=1))
    order = np.concatenate([np.setdiff1d(np.arange(40), rows), rows])
    bank = replace(data.banks["train"], labels=labels[order], validation_from=30)
    with pytest.raises(CellError, match="none of the 10 held-out images shows any class that another lacks"):
        linear.run(replace(data, banks={**data.banks, "train": bank}), PARAMS, rng)


def test_held_out_share_is_taken_from_each_class(rng: np.random.Generator) -> None:
    labels = np.repeat([0, 1, 2], [1000, 200, 50])
    held_out = hold_out(labels, 0.1, rng)
    np.testing.assert_allclose(np.bincount(labels[held_out]), [100, 20, 5], atol=1)
    assert len(np.unique(held_out)) == len(held_out)


def test_perfect_features_give_one_and_random_ones_chance(rng: np.random.Generator) -> None:
    labels = np.tile(np.arange(4), 100)
    perfect = np.eye(4)[labels]
    data = evaluation(4, train=(perfect, labels), test=(perfect, labels))
    assert linear.run(data, PARAMS, rng)["top1"].value == 1.0
    noise = rng.standard_normal((800, 8))
    data = evaluation(4, train=(noise[:400], labels), test=(noise[400:], labels))
    low, high = linear.run(data, PARAMS, rng)["top1"].ci95
    assert low <= 0.25 <= high


@pytest.mark.parametrize("change", ["permute test", "scale", "relabel"])
def test_metamorphic(change: str) -> None:
    rng = np.random.default_rng(3)
    features, labels = correlated(rng, count=900)
    train, test = (features[:600], labels[:600]), (features[600:], labels[600:])
    base = linear.run(evaluation(5, train=train, test=test), PARAMS, np.random.default_rng(0))
    if change == "permute test":
        order = rng.permutation(300)
        test = (test[0][order], test[1][order])
    elif change == "scale":
        train, test = (train[0] * 64, train[1]), (test[0] * 64, test[1])
    else:
        names = rng.permutation(5)
        train, test = (train[0], names[train[1]]), (test[0], names[test[1]])
    changed = linear.run(evaluation(5, train=train, test=test), PARAMS, np.random.default_rng(0))
    if change == "relabel":  # the held-out items are other ones
        low, high = base["top1"].ci95
        assert low <= changed["top1"].value <= high
    else:
        assert changed["top1"].value == base["top1"].value
        assert changed["top1"].details == base["top1"].details


def test_multi_label_map(rng: np.random.Generator) -> None:
    features, classes = correlated(rng, count=800, dims=12, classes=4)
    labels = np.where(classes[:, None] == np.arange(4), 1, -1).astype(np.int8)
    data = evaluation(4, train=(features[:500], labels[:500]), test=(features[500:], labels[500:]))
    scores = linear.run(data, PARAMS, rng)
    assert set(scores) == {"map", "map_11pt"}
    classifier = fit(features[:500], labels[:500], 4, np.array([scores["map"].details["C"]]), STOPPING)
    plain = average_precision_score(labels[500:] == 1, classifier.scores(features[500:]))
    assert plain <= scores["map"].value <= plain + 0.03  # interpolation only raises precision
    low, high = scores["map"].ci95
    assert low < scores["map"].value < high


def test_bad_input(rng: np.random.Generator) -> None:
    features, labels = rng.standard_normal((60, 4)), np.arange(60) % 3
    with pytest.raises(CellError, match=r"1 of 4 classes have no training image \(class 3\)"):
        linear.run(evaluation(4, train=(features, labels), test=(features, labels)), PARAMS, rng)
    with pytest.raises(RequestError, match="1 class: there is nothing to tell apart"):
        linear.run(evaluation(1, train=(features, 0 * labels), test=(features, 0 * labels)), PARAMS, rng)
    with pytest.raises(CellError, match="all 4 feature dimensions are constant over the"):
        linear.run(evaluation(3, train=(0 * features, labels), test=(features, labels)), PARAMS, rng)
    with pytest.raises(RequestError, match="leaves nothing to select on; at least 10"):
        linear.run(evaluation(3, train=(features[:9], labels[:9]), test=(features, labels)), PARAMS, rng)
