"""What must not move a result: the order of the items, a common factor of the features, the numbers of the classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from massl_bench import protocols
from massl_bench.specs import Registry
from massl_bench.types import CopyTruth, EvaluationData, FeatureBank, QueryTruth, Score

CLASSES, DIM = 5, 12
OF_CLASSES = ["knn", "class-retrieval", "linear", "low-shot", "few-shot", "kmeans"]
DETERMINISTIC = {"knn", "class-retrieval"}
"""Among those: nothing in them is drawn."""


def measure(task: str, data: EvaluationData) -> dict[str, Score]:
    spec = Registry().task(task)
    params = protocols.parameters(spec, task)
    return protocols.load(spec.protocol).run(data, params, np.random.default_rng(spec.seed))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def classes(rng) -> EvaluationData:
    """Overlapping clouds of 220 training and 120 test items."""
    centres_CD = 1.2 * rng.standard_normal((CLASSES, DIM))
    banks = {}
    for role, count in (("train", 220), ("test", 120)):
        labels = np.arange(count) % CLASSES
        features = centres_CD[labels] + rng.standard_normal((count, DIM))
        banks[role] = replace(FeatureBank.from_arrays(features, labels), num_classes=CLASSES)
    return EvaluationData(banks=banks, num_classes=CLASSES)


def permuted(data: EvaluationData, rng: np.random.Generator) -> EvaluationData:
    banks = {}
    for role, bank in data.banks.items():
        order = rng.permutation(len(bank))
        banks[role] = replace(bank, features=bank.features[order], labels=bank.labels[order], ids=bank.ids[order])
    return replace(data, banks=banks)


def scaled(data: EvaluationData, rng: np.random.Generator) -> EvaluationData:
    banks = {role: replace(bank, features=bank.features * np.float32(8)) for role, bank in data.banks.items()}
    return replace(data, banks=banks)


def relabelled(data: EvaluationData, rng: np.random.Generator) -> EvaluationData:
    names = rng.permutation(CLASSES)
    banks = {role: replace(bank, labels=names[bank.labels]) for role, bank in data.banks.items()}
    return replace(data, banks=banks)


def interval(score: Score) -> tuple[float, float]:
    spread = 2 * (score.std or 0.0)
    return score.ci95 or (score.value - spread, score.value + spread)


@pytest.mark.parametrize("change", [permuted, scaled, relabelled])
@pytest.mark.parametrize("task", OF_CLASSES)
def test_classes(task, change, classes, rng):
    before, after = measure(task, classes), measure(task, change(classes, rng))
    assert before.keys() == after.keys()
    measured = [name for name, score in before.items() if score.ci95 is not None or score.std is not None]
    assert Registry().task(task).headline in measured
    for name in measured:
        score = before[name]
        # A power of two changes no digit of any feature, so that even what is drawn stays the same; and k-means does
        # not look at labels.
        if task in DETERMINISTIC or change is scaled or (task == "kmeans" and change is relabelled):
            assert after[name].value == pytest.approx(score.value, abs=1e-12), name
        else:
            (low, high), (other_low, other_high) = interval(score), interval(after[name])
            assert low <= other_high, name
            assert other_low <= high, name


@pytest.fixture
def landmarks(rng) -> EvaluationData:
    places = rng.standard_normal((6, DIM))
    database = places[np.arange(48) % 6] + 0.8 * rng.standard_normal((48, DIM))
    queries = places + 0.8 * rng.standard_normal((6, DIM))
    truth = []
    for query in range(6):
        rows = rng.permutation(np.arange(query, 48, 6))
        truth.append(QueryTruth(easy=rows[:3], hard=rows[3:6], junk=rows[6:]))
    banks = {"database": FeatureBank.from_arrays(database), "queries": FeatureBank.from_arrays(queries)}
    return EvaluationData(banks=banks, num_classes=None, ground_truth=truth)


def test_landmarks_in_another_order(landmarks, rng):
    rows, queries = rng.permutation(48), rng.permutation(6)
    place = np.argsort(rows)
    truth = [
        QueryTruth(**{name: place[getattr(landmarks.ground_truth[query], name)] for name in ("easy", "hard", "junk")})
        for query in queries
    ]
    banks = {
        "database": FeatureBank.from_arrays(4 * landmarks.banks["database"].features[rows]),
        "queries": FeatureBank.from_arrays(landmarks.banks["queries"].features[queries] / 2),
    }
    before = measure("retrieval", landmarks)
    after = measure("retrieval", replace(landmarks, banks=banks, ground_truth=truth))
    assert {name: score.value for name, score in after.items()} == pytest.approx(
        {name: score.value for name, score in before.items()}, abs=1e-12
    )


@pytest.mark.parametrize("task", ["copy-detection", "copy-detection-top20"])
def test_copies_in_another_order(task, rng):
    originals, distractors = rng.standard_normal((30, DIM)), rng.standard_normal((50, DIM))
    original = np.repeat(np.arange(30), 2)
    queries = originals[original] + rng.standard_normal((60, DIM))
    block = np.tile(["strong", "crops/10"], 30)

    def scores(rows, asked) -> dict[str, float]:
        banks = {"originals": originals[rows], "distractors": 2 * distractors, "queries": queries[asked]}
        data = EvaluationData(
            banks={role: FeatureBank.from_arrays(features) for role, features in banks.items()},
            num_classes=None,
            ground_truth=CopyTruth(original=np.argsort(rows)[original[asked]], block=block[asked]),
        )
        return {name: score.value for name, score in measure(task, data).items()}

    before = scores(np.arange(30), np.arange(60))
    assert 0.1 < before["map_strong"] < 0.9
    assert scores(rng.permutation(30), rng.permutation(60)) == pytest.approx(before, abs=1e-12)


def test_spectrum_in_another_order(classes, rng):
    before, after = measure("spectrum", classes), measure("spectrum", scaled(permuted(classes, rng), rng))
    for name in ("rankme", "alpha_req"):
        assert after[name].value == pytest.approx(before[name].value, rel=1e-5)
