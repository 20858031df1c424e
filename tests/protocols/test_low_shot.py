"""`low-shot` against scikit-learn's folds and classifiers, and folds of classes that are smaller than the folds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from massl_bench.core.errors import CellError, RequestError
from massl_bench.protocols import low_shot
from massl_bench.protocols.shared.selection import stratified_folds
from tests.protocols.banks import evaluation, params_of

PARAMS = params_of(low_shot, "low-shot")


def gaussian_classes(
    rng: np.random.Generator, *, count: int, dims: int = 12, classes: int = 4, noise: float = 1.6
) -> tuple[NDArray[Any], NDArray[Any]]:
    centres = rng.standard_normal((classes, dims))
    labels = np.arange(count) % classes
    return (centres[labels] + noise * rng.standard_normal((count, dims))).astype(np.float32), labels


def scikit_folds(labels: NDArray[Any], num_folds: int, rng: np.random.Generator) -> NDArray[Any]:
    folds = np.empty(len(labels), dtype=np.int64)
    splits = StratifiedKFold(num_folds, shuffle=True, random_state=0).split(labels, labels)
    for fold, (_, held_out) in enumerate(splits):
        folds[held_out] = fold
    return folds


@pytest.mark.parametrize("folds_of", [stratified_folds, scikit_folds])
def test_selection_equals_cross_validated_logistic_regression(
    folds_of: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = gaussian_classes(rng, count=600)
    train, test = (features[:150], labels[:150]), (features[150:], labels[150:])
    params = PARAMS.model_copy(update={"log10_c_min": -3.0, "log10_c_max": 1.0, "num_c": 5})
    folds = folds_of(labels[:150], 5, np.random.default_rng(7))
    monkeypatch.setattr(low_shot, "stratified_folds", folds_of)
    score = low_shot.run(evaluation(4, train=train, test=test), params, np.random.default_rng(7))["top1"]
    right = np.zeros(5)
    for fold in range(5):
        fitted, held_out = folds != fold, folds == fold
        mean, std = train[0][fitted].mean(0), train[0][fitted].std(0)
        for place, strength in enumerate(params.strengths):
            theirs = LogisticRegression(C=strength, max_iter=1000, tol=1e-6)
            theirs.fit((train[0][fitted] - mean) / std, train[1][fitted])
            right[place] += (theirs.predict((train[0][held_out] - mean) / std) == train[1][held_out]).sum()
    assert score.details["C"] == params.strengths[right.argmax()]
    assert score.details["selection_value"] == pytest.approx(right.max() / 150, abs=1 / 150)
    assert score.details["selection_split"] == "5-fold cross-validation"
    mean, std = train[0].mean(0), train[0].std(0)
    theirs = LogisticRegression(C=score.details["C"], max_iter=1000, tol=1e-6).fit((train[0] - mean) / std, train[1])
    assert score.value == pytest.approx(theirs.score((test[0] - mean) / std, test[1]), abs=1 / 450)
    low, high = score.ci95
    assert low < score.value < high


def test_folds_are_stratified_and_seeded() -> None:
    labels = np.repeat([0, 1, 2], [52, 13, 5])
    folds = stratified_folds(labels, 5, np.random.default_rng(0))
    counts = np.array([np.bincount(folds[labels == c], minlength=5) for c in range(3)])
    assert counts.sum(1).tolist() == [52, 13, 5]
    assert (np.ptp(counts, axis=1) <= 1).all()
    assert np.ptp(counts.sum(0)) <= 1
    assert (folds == stratified_folds(labels, 5, np.random.default_rng(0))).all()
    assert (folds != stratified_folds(labels, 5, np.random.default_rng(1))).any()


def test_small_classes_keep_an_image_in_every_fitted_part() -> None:
    labels = np.repeat([0, 1, 2, 3], [9, 3, 2, 1])
    folds = stratified_folds(labels, 5, np.random.default_rng(0))
    assert folds[labels == 3].tolist() == [-1]
    assert len(set(folds[labels == 1])) == 3
    assert len(set(folds[labels == 2])) == 2
    for fold in range(5):
        assert set(labels[folds != fold]) == {0, 1, 2, 3}


def test_single_images_are_counted(rng: np.random.Generator) -> None:
    features, labels = gaussian_classes(rng, count=40)
    labels[0], params = 4, PARAMS.model_copy(update={"num_c": 3})
    data = evaluation(5, train=(features, labels), test=(features, labels))
    assert low_shot.run(data, params, rng)["top1"].details["never_held_out"] == 1


def test_perfect_features_give_one(rng: np.random.Generator) -> None:
    labels = np.tile(np.arange(4), 20)
    data = evaluation(4, train=(np.eye(4)[labels], labels), test=(np.eye(4)[labels], labels))
    assert low_shot.run(data, PARAMS, rng)["top1"].value == 1.0


def test_bad_input(rng: np.random.Generator) -> None:
    features, labels = gaussian_classes(rng, count=40)
    few = evaluation(4, train=(features[:4], labels[:4]), test=(features, labels))
    with pytest.raises(RequestError, match="4 training images cannot be cut into 5 folds; at least 5"):
        low_shot.run(few, PARAMS, rng)
    with pytest.raises(CellError, match="3 of 6 training images are of a class with several"):
        stratified_folds(np.array([0, 0, 0, 1, 2, 3]), 5, rng)
    with pytest.raises(CellError, match="1 of 5 classes have no training image"):
        low_shot.run(evaluation(5, train=(features, labels), test=(features, labels)), PARAMS, rng)
