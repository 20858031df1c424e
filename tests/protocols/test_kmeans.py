"""k-means: the official script's numbers, and clusters with known answers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import normalized_mutual_info_score

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.values import SearchBackend
from massl_bench.learners import faiss_backend
from massl_bench.metrics.clustering import clustering_scores
from massl_bench.protocols import kmeans
from tests.protocols.banks import evaluation, params_of


@pytest.mark.parametrize("task", ["kmeans", "kmeans-carp"])  # 256 × 12 > 3,000 points: the same here
def test_golden(task: str, single_label: dict[str, NDArray[Any]], expected: Any, rng: np.random.Generator) -> None:
    data = evaluation(
        12,
        train=(single_label["train_features"], single_label["train_labels"]),
        test=(single_label["test_features"], single_label["test_labels"]),
    )
    scores = kmeans.run(data, params_of(kmeans, task), rng)
    for name, value in expected["kmeans"].items():
        assert scores[name].value == pytest.approx(value, abs=1e-3), name
    low, high = scores["nmi"].ci95
    assert low < scores["nmi"].value < high


@pytest.mark.parametrize(("count", "classes", "noise"), [(1880, 47, 0.7), (450, 10, 0.3), (600, 60, 1.0)])
def test_the_interval_of_nmi_holds_the_mean_of_fresh_data(
    count: int, classes: int, noise: float, rng: np.random.Generator
) -> None:
    """Resampling raises the mutual information, the more so the fewer items a class has."""

    def sample() -> tuple[NDArray[Any], NDArray[Any]]:
        labels = rng.integers(classes, size=count)
        return np.where(rng.random(count) < noise, rng.integers(classes, size=count), labels), labels

    fresh = np.mean([normalized_mutual_info_score(*sample()) for _ in range(60)])
    held = 0
    for _ in range(20):
        score = clustering_scores(*sample(), resamples=100, rng=rng)["nmi"]
        low, high = score.ci95
        assert low < score.value < high
        held += low < fresh < high
    assert held >= 16


def test_all_points_train_unless_the_task_limits_them(rng: np.random.Generator) -> None:
    seen: list[tuple[int, int, int]] = []

    class Spy:
        obj = (1.0,)

        def __init__(self, dims: int, k: int, **settings: Any) -> None:
            seen.append((settings["max_points_per_centroid"], settings["nredo"], settings["seed"]))
            self.centroids = np.eye(k, dims, dtype=np.float32)

        def train(self, rows: Any) -> None:
            pass

    original = faiss_backend.import_faiss().Kmeans
    faiss_backend.import_faiss().Kmeans = Spy
    try:
        features, labels = rng.standard_normal((1000, 4)), np.arange(1000) % 3
        data = evaluation(3, train=(features, labels), test=(features, labels))
        for task in ("kmeans", "kmeans-carp"):
            kmeans.run(data, params_of(kmeans, task), rng)
    finally:
        faiss_backend.import_faiss().Kmeans = original
    # 3 × 334 ≥ 1,000: every point, in one call for each run; 3 × 256 are drawn by the seed, in one call for all.
    assert seen == [*((334, 1, 1234 + run * 15_486_557) for run in range(10)), (256, 10, 1234)]


def test_hand_made_agreement(rng: np.random.Generator) -> None:
    # Clusters 0, 1, 2 against classes: {0: aab, 1: bb, 2: a}. Best matching: 0 → a (2 right), 1 → b (2 right); 4 of 6.
    clusters = np.array([0, 0, 0, 1, 1, 2])
    labels = np.array([0, 0, 1, 1, 1, 0])
    scores = clustering_scores(clusters, labels, resamples=100, rng=rng)
    assert scores["accuracy"].value == pytest.approx(4 / 6)
    # H(class) = ln 2; H(class | cluster) = ½ · H(2/3, 1/3).
    conditional = 0.5 * (-(2 / 3) * np.log(2 / 3) - (1 / 3) * np.log(1 / 3))
    assert scores["homogeneity"].value == pytest.approx(1 - conditional / np.log(2))


@pytest.mark.parametrize("change", ["permute test", "scale", "relabel"])
def test_metamorphic(change: str, single_label: dict[str, NDArray[Any]]) -> None:
    train = (single_label["train_features"], single_label["train_labels"])
    test = (single_label["test_features"], single_label["test_labels"])
    params = params_of(kmeans, "kmeans").model_copy(update={"restarts": 1, "iterations": 10})
    base = kmeans.run(evaluation(12, train=train, test=test), params, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    if change == "permute test":
        order = rng.permutation(len(test[1]))
        test = (test[0][order], test[1][order])
    elif change == "scale":
        train, test = (train[0] * 16, train[1]), (test[0] * 16, test[1])
    else:
        names = rng.permutation(12)
        train, test = (train[0], names[train[1]]), (test[0], names[test[1]])
    changed = kmeans.run(evaluation(12, train=train, test=test), params, np.random.default_rng(0))
    for name, score in base.items():
        assert changed[name].value == pytest.approx(score.value, abs=1e-12), name


def test_perfect_features_give_one(rng: np.random.Generator) -> None:
    labels = np.tile(np.arange(4), 50)
    features = np.eye(4)[labels] + 1e-3 * rng.standard_normal((200, 4))
    data = evaluation(4, train=(features, labels), test=(features, labels))
    assert {
        name: round(score.value, 12) for name, score in kmeans.run(data, params_of(kmeans, "kmeans"), rng).items()
    } == dict.fromkeys(kmeans.NAMES, 1.0)


def test_bad_input(rng: np.random.Generator) -> None:
    params = params_of(kmeans, "kmeans")
    features, labels = rng.standard_normal((6, 3)), np.arange(6) % 3
    with pytest.raises(RequestError, match="9 clusters asked of 6 training images"):
        kmeans.run(evaluation(9, train=(features, labels), test=(features, labels)), params, rng)
    with pytest.raises(CellError, match="all 3 feature dimensions are constant"):
        kmeans.run(evaluation(3, train=(0 * features, labels), test=(features, labels)), params, rng)
    multi = np.ones((6, 3), dtype=np.int8)
    with pytest.raises(RequestError, match=r"has 3 \(multi-label\)"):
        kmeans.run(evaluation(3, train=(features, multi), test=(features, multi)), params, rng)


def test_a_card_that_faiss_cannot_use_is_said(rng: np.random.Generator) -> None:
    """The clustering is the CPU's then; of one that it can use the record would say so."""
    features, labels = rng.standard_normal((60, 4)), np.arange(60) % 3
    data = evaluation(3, train=(features, labels), test=(features, labels))
    params = params_of(kmeans, "kmeans")
    cpu = kmeans.run(data, params, np.random.default_rng(0))
    there = kmeans.run(replace(data, backend=SearchBackend("torch", "cuda:7")), params, np.random.default_rng(0))
    assert {name: score.value for name, score in there.items()} == {name: score.value for name, score in cpu.items()}
    assert cpu.notes == ()
    assert re.fullmatch(r"clustered on the CPU: FAISS cannot use cuda:7 \(.+\)", there.notes[0])
    assert all("clustered_on" not in score.details for score in there.values())
