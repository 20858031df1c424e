"""k-NN: the golden numbers, cases small enough to work out by hand, and what must not change a result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import massl_bench as mb
from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.values import EvaluationData, FeatureBank, Scores, SearchBackend
from massl_bench.protocols import knn
from massl_bench.protocols.shared import votes


def evaluate(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], k: list[int], num_classes: int
) -> Scores:
    banks = {"train": FeatureBank.from_arrays(*train), "test": FeatureBank.from_arrays(*test)}
    params = knn.Params(k=tuple(k), temperature=0.07, bootstrap_resamples=200)
    return knn.run(EvaluationData(banks=banks, num_classes=num_classes), params, np.random.default_rng(0))


@pytest.fixture
def arrays(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "features_single_label.npz") as archive:
        return dict(archive)


def values(arrays: dict[str, np.ndarray], k: list[int]) -> dict[str, float]:
    train = arrays["train_features"], arrays["train_labels"]
    test = arrays["test_features"], arrays["test_labels"]
    return {name: score.value for name, score in evaluate(train, test, k, 12).items()}


def test_golden(arrays: dict[str, np.ndarray], golden: Path) -> None:
    expected = json.loads((golden / "expected.json").read_text())["knn_top1_top5_by_k_T0.07"]
    ks = [int(k) for k in expected]
    found = values(arrays, ks)
    one_sample = 1 / len(arrays["test_labels"]) + 1e-9
    for k in ks:
        top1, top5 = expected[str(k)]
        assert abs(found[f"top1@{k}"] - top1 / 100) <= one_sample, k
        if k < 5:  # about classes without a vote more than about neighbours: not reported
            assert f"top5@{k}" not in found
        else:
            assert abs(found[f"top5@{k}"] - top5 / 100) <= one_sample, k


def test_one_search_serves_every_k(arrays: dict[str, np.ndarray]) -> None:
    together = values(arrays, [10, 20, 100])
    for k in (10, 20, 100):
        assert values(arrays, [k])[f"top1@{k}"] == together[f"top1@{k}"]


def test_the_weights_decide_by_hand() -> None:
    # Query (1, 0). Neighbours: class 1 at cosine 1.0; class 0 twice at cosine 0.8. With T = 0.07 one vote of
    # exp(1/0.07) = 1.6e6 beats two of exp(0.8/0.07) = 9.2e4; an unweighted vote would say class 0.
    train = np.array([[1, 0], [0.8, 0.6], [0.8, -0.6]], dtype=np.float32), np.array([1, 0, 0])
    scores = evaluate(train, (np.array([[1, 0]], dtype=np.float32), np.array([1])), [3], 2)
    assert scores["top1@3"].value == 1.0


def test_equal_sums_go_to_the_lower_class() -> None:
    train = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32), np.array([1, 0, 2])
    query = np.array([[1, 0]], dtype=np.float32)
    assert evaluate(train, (query, np.array([0])), [2], 3)["top1@2"].value == 1.0
    assert evaluate(train, (query, np.array([1])), [2], 3)["top1@2"].value == 0.0


def test_top5_counts_classes_without_a_vote() -> None:
    # All votes go to class 9; the others tie at zero, so that the five best are 9, 0, 1, 2, 3.
    train = np.repeat([[1, 1], [-1, -1]], [5, 9], axis=0).astype(np.float32), np.array([9] * 5 + list(range(9)))
    test = np.ones((5, 2), dtype=np.float32), np.array([9, 0, 3, 4, 8])
    scores = evaluate(train, test, [5], 10)
    assert scores["top1@5"].value == pytest.approx(1 / 5)
    assert scores["top5@5"].value == pytest.approx(3 / 5)
    # Of the three hits, class 9 has votes; classes 0 and 3 are hits by their number.
    assert scores.notes == ("hits of classes without a vote, by class number as in the published script: 2 of top5@5",)


def test_what_could_never_be_predicted() -> None:
    features, labels = np.eye(4, dtype=np.float32), np.array([0, 0, 2, 2])
    with pytest.raises(CellError, match=r"1 of 3 classes have no training image \(class 1\)"):
        evaluate((features, labels), (features, labels), [1], 3)
    with pytest.raises(RequestError, match="the dataset has 1 class: there is nothing to tell apart"):
        evaluate((features, np.zeros(4, dtype=np.int64)), (features, np.zeros(4, dtype=np.int64)), [1], 1)
    constant = np.ones((4, 2), dtype=np.float32)
    with pytest.raises(CellError, match="all 2 feature dimensions are constant over the 4 training images"):
        evaluate((constant, np.array([0, 0, 1, 1])), (features, np.array([0, 0, 1, 1])), [1], 2)
    several = np.ones((4, 3), dtype=np.int8)
    with pytest.raises(RequestError, match="needs one label an image"):
        evaluate((features, several), (features, several), [1], 3)


def test_one_test_image() -> None:
    rng = np.random.default_rng(0)
    train = rng.standard_normal((30, 5)), np.arange(30) % 3
    scores = evaluate(train, (train[0][:1], train[1][:1]), [1, 30], 3)
    assert scores["top1@1"].value == 1.0
    assert scores["top1@1"].ci95 == (1.0, 1.0)


def test_many_classes_in_chunks(monkeypatch: pytest.MonkeyPatch, arrays: dict[str, np.ndarray]) -> None:
    whole = values(arrays, [20])
    monkeypatch.setattr(votes, "_VOTES_PER_CHUNK", 12 * 64)
    assert values(arrays, [20]) == whole


def test_metamorphic(arrays: dict[str, np.ndarray]) -> None:
    plain = values(arrays, [10, 200])
    rng = np.random.default_rng(3)
    order, relabel = rng.permutation(len(arrays["train_labels"])), rng.permutation(12)
    shuffled = {
        **arrays,
        "train_features": arrays["train_features"][order],
        "train_labels": arrays["train_labels"][order],
    }
    assert values(shuffled, [10, 200]) == plain
    scaled = {name: array * np.float32(64) if "features" in name else array for name, array in arrays.items()}
    assert values(scaled, [10, 200]) == plain
    renamed = {name: relabel[array] if "labels" in name else array for name, array in arrays.items()}
    for metric in ("top1@10", "top1@200", "mean_per_class@200"):
        assert values(renamed, [10, 200])[metric] == pytest.approx(plain[metric], abs=1e-12)


def test_perfect_features_give_one_and_random_ones_chance() -> None:
    rng = np.random.default_rng(5)
    labels = np.arange(2000) % 10
    perfect = np.eye(10, dtype=np.float32)[labels]
    assert evaluate((perfect, labels), (perfect, labels), [20], 10)["top1@20"].value == 1.0
    noise = rng.standard_normal((4000, 16)).astype(np.float32)
    score = evaluate((noise[:2000], labels), (noise[2000:], labels), [20], 10)["top1@20"]
    assert score.ci95 is not None
    assert score.ci95[0] - 0.01 <= 0.1 <= score.ci95[1] + 0.01


def test_errors_name_both_numbers() -> None:
    params = knn.Params(k=(10, 200), temperature=0.07, bootstrap_resamples=10)
    with pytest.raises(RequestError, match=r"k = 200 asked, but the training split has 150 .*: k=10, headline="):
        knn.check_sizes(params, {"train": 150, "test": 1})
    with pytest.raises(RequestError, match="test split is empty"):
        knn.check_sizes(params, {"train": 500, "test": 0})
    with pytest.raises(RequestError, match="train split is empty"):
        knn.check_sizes(params, {"train": 0, "test": 3})


def test_python_interface(arrays: dict[str, np.ndarray]) -> None:
    banks = {
        role: mb.FeatureBank.from_arrays(arrays[f"{role}_features"], arrays[f"{role}_labels"])
        for role in ("train", "test")
    }
    assert mb.evaluate("knn", banks)["top1@20"].value == values(arrays, [20])["top1@20"]
    assert set(mb.evaluate("knn", banks, params={"k": [7]})) == {"top1@7", "top5@7", "mean_per_class@7"}
    with pytest.raises(RequestError, match="device='gpu': expected auto, cpu, cuda or cuda:i"):
        mb.evaluate("knn", banks, device="gpu")
    with pytest.raises(RequestError, match="device='gpu': expected auto, cpu, cuda or cuda:i"):
        mb.load_encoder("pixels", device="gpu")
    with pytest.raises(RequestError, match="missing: test"):
        mb.evaluate("knn", {"train": banks["train"]})


@pytest.mark.parametrize("place", ["in memory", "on the device"])
def test_a_device_scores_as_the_cpu_does(
    arrays: dict[str, np.ndarray], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Search and vote in torch, a few items at a time: the same scores, intervals, hits and predictions."""
    monkeypatch.setattr(votes, "_VOTES_ON_A_DEVICE", 1_000)
    banks = {
        role: FeatureBank.from_arrays(arrays[f"{role}_features"], arrays[f"{role}_labels"])
        for role in ("train", "test")
    }
    params = knn.Params(k=(1, 5, 20), temperature=0.07, bootstrap_resamples=50)
    expected = knn.run(EvaluationData(banks=banks, num_classes=12), params, np.random.default_rng(0))
    if place == "on the device":
        banks = {role: replace(bank, on_device=torch.from_numpy(bank.features)) for role, bank in banks.items()}
    data = EvaluationData(banks=banks, num_classes=12, backend=SearchBackend("torch", "cpu"))
    found = knn.run(data, params, np.random.default_rng(0))
    assert found == expected
    assert found.notes == expected.notes
    for name, score in expected.items():
        if score.items is not None:
            assert (found[name].items == score.items).all()
        if score.predicted is not None:
            assert (found[name].predicted == score.predicted).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, -1, 1]), "expected class indices from 0, found -1"),
        (np.array([0.0, 1.0, 1.0]), r"expected whole numbers \[N\] or \[N, C\], found float64 \[3\]"),
        (np.zeros((3, 2, 2), dtype=np.int64), r"found int64 \[3, 2, 2\]"),
        (np.array([[0, 2], [1, 1], [0, 0]]), "expected 1 present, 0 difficult, −1 absent, found 2"),
        (np.array([[0, -2], [1, 1], [0, 0]]), "absent, found -2"),
        (np.array([0, 1]), "expected 3, found 2"),
    ],
)
def test_labels_that_are_none(labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureBank.from_arrays(np.eye(3, dtype=np.float32), labels)
