"""Few-shot: the official SVM's numbers, sampling, and errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch  # noqa: F401  # before faiss
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.values import EvaluationData
from massl_bench.protocols import few_shot, few_shot_svm
from massl_bench.protocols.shared.draws import draw_up_to
from tests.conftest import GOLDEN
from tests.protocols.banks import evaluation, params_of

SVM = params_of(few_shot_svm, "few-shot-svm")
PARAMS = params_of(few_shot, "few-shot")


@pytest.fixture(scope="module")
def multi() -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN / "features_multi_label.npz") as arrays:
        return dict(arrays)


def multi_data(multi: dict[str, NDArray[Any]], *, with_draws: bool = True) -> EvaluationData:
    data = evaluation(
        6,
        train=(multi["train_features"], multi["train_labels"].astype(np.int8)),
        test=(multi["test_features"], multi["test_labels"].astype(np.int8)),
    )
    draws = {(k, run): multi[f"k{k}_run{run}"] for k in SVM.shots for run in range(5)}
    return replace(data, draws=draws) if with_draws else data


def test_svm_golden(multi: dict[str, NDArray[Any]], expected: Any, rng: np.random.Generator) -> None:
    scores = few_shot_svm.run(multi_data(multi), SVM, rng)
    for k, golden in expected["few_shot_svm_C0.5"].items():
        score = scores[f"map@k{k}"]
        np.testing.assert_allclose(100 * np.array(score.per_seed), golden["runs"], atol=0.3)
        assert 100 * score.value == pytest.approx(golden["mean_map"], abs=0.3)
        assert 100 * score.std == pytest.approx(golden["std_map"], abs=0.3)
        assert score.details["draws"] == "handed in"


def test_svm_samples_when_no_draws_are_given(
    multi: dict[str, NDArray[Any]], expected: Any, rng: np.random.Generator
) -> None:
    scores = few_shot_svm.run(multi_data(multi, with_draws=False), SVM, rng)
    assert scores["map@k1"].details["draws"] == "sampled"
    values = [scores[name].value for name in few_shot_svm.metric_names(SVM)]
    assert values == sorted(values), "more images, more precision; all of them the most"
    for k, golden in expected["few_shot_svm_C0.5"].items():  # other draws of the same data: within 4 standard errors
        assert 100 * scores[f"map@k{k}"].value == pytest.approx(golden["mean_map"], abs=4 * golden["std_map"])


def test_svm_draws_k_positives_of_each_class_with_repeats(rng: np.random.Generator) -> None:
    present = rng.random((50, 4)) < 0.3
    rows, _ = few_shot_svm._draw(present, 3, rng)
    assert rows.shape == (12,)
    for index, chosen in enumerate(rows.reshape(4, 3)):
        assert present[chosen, index].all()
        assert len(set(chosen)) == 3


def test_svm_redraws_what_leaves_a_class_without_a_negative(rng: np.random.Generator) -> None:
    # Class 0 is in rows 0 and 1; class 1 only in rows 1 and 2: of the four draws only (0, 2) leaves both a negative.
    present = np.array([[1, 0], [1, 1], [0, 1]], dtype=bool)
    drawn = [few_shot_svm._draw(present, 1, rng) for _ in range(100)]
    assert {tuple(rows) for rows, _ in drawn} == {(0, 2)}
    assert np.mean([again for _, again in drawn]) == pytest.approx(3, abs=1.5)  # 1/4 of the draws are good


def test_logistic_regression_on_given_draws_is_scikit_learns(
    single_label: dict[str, NDArray[Any]], rng: np.random.Generator
) -> None:
    params = PARAMS.model_copy(update={"shots": (4,), "num_draws": 2})
    labels = single_label["train_labels"]
    draws = {(4, run): draw_up_to(labels, 4, rng) for run in range(2)}
    data = evaluation(
        12,
        train=(single_label["train_features"], labels),
        test=(single_label["test_features"], single_label["test_labels"]),
    )
    score = few_shot.run(replace(data, draws=draws), params, rng)["top1@s4"]
    theirs = []
    for run in range(2):
        rows = draws[4, run]
        assert np.bincount(labels[rows]).tolist() == [4] * 12
        x = single_label["train_features"][rows].astype(np.float64)
        model = LogisticRegression(C=1.0, max_iter=5000, tol=1e-8).fit((x - x.mean(0)) / x.std(0), labels[rows])
        theirs.append(model.score((single_label["test_features"] - x.mean(0)) / x.std(0), single_label["test_labels"]))
    np.testing.assert_allclose(score.per_seed, theirs, atol=2 / 700)
    assert score.value == pytest.approx(np.mean(score.per_seed))
    assert score.std == pytest.approx(np.std(score.per_seed))
    assert score.details == {"draws": "handed in"}


def test_rises_with_k_and_repeats_with_the_seed(single_label: dict[str, NDArray[Any]]) -> None:
    data = evaluation(
        12,
        train=(single_label["train_features"], single_label["train_labels"]),
        test=(single_label["test_features"], single_label["test_labels"]),
    )
    first, second = (few_shot.run(data, PARAMS, np.random.default_rng(7)) for _ in range(2))
    assert first == second
    values = [first[f"top1@s{k}"].value for k in PARAMS.shots]
    assert values == sorted(values)


def test_perfect_features_give_one_and_random_ones_chance(rng: np.random.Generator) -> None:
    labels = np.tile(np.arange(5), 60)
    perfect = np.eye(5)[labels]
    scores = few_shot.run(evaluation(5, train=(perfect, labels), test=(perfect, labels)), PARAMS, rng)
    assert {score.value for score in scores.values()} == {1.0}
    noise = rng.standard_normal((300, 6))
    score = few_shot.run(evaluation(5, train=(noise, labels), test=(noise[::-1], labels)), PARAMS, rng)["top1@s1"]
    assert score.value == pytest.approx(0.2, abs=0.07)


def test_bad_input(multi: dict[str, NDArray[Any]], rng: np.random.Generator) -> None:
    labels = np.repeat([0, 1, 2], [20, 20, 5])
    features = rng.standard_normal((45, 4))
    with pytest.raises(CellError, match=r"16 images of each class asked, but class 2 has 5 .*shots=\[1, 2, 4\]"):
        few_shot.run(evaluation(3, train=(features, labels), test=(features, labels)), PARAMS, rng)
    with pytest.raises(CellError, match=r"but class 3 has 0 .*every class needs at least 1"):
        few_shot.run(evaluation(4, train=(features, labels), test=(features, labels)), PARAMS, rng)
    with pytest.raises(RequestError, match=r"needs one label an image, and the train split has \d+ \(multi-label\)"):
        few_shot.run(multi_data(multi), PARAMS, rng)
    with pytest.raises(RequestError, match=r"needs multi-label data"):
        few_shot_svm.run(evaluation(3, train=(features, labels), test=(features, labels)), SVM, rng)
    data = multi_data(multi)
    with pytest.raises(RequestError, match=r"k3_run0 is not among them .*shots=1"):
        few_shot_svm.run(data, SVM.model_copy(update={"shots": (1, 3)}), rng)
