"""What must not move a result: the order of the items, a common factor of the features, the numbers of the classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from massl_bench import protocols
from massl_bench.core.values import CopyTruth, EvaluationData, FeatureBank, QueryTruth, Score, ViewBatch, ViewPlan
from massl_bench.metrics.multilabel import mean_average_precision
from massl_bench.specs.registry import Registry

CLASSES, DIM = 5, 12
ONE_LABEL = ["knn", "class-retrieval", "linear", "low-shot", "few-shot", "kmeans", "kmeans-carp"]
SEVERAL_LABELS = ["linear", "few-shot-svm"]
ON_VIEWS = ["linear-augmented", "linear-augmented-carp", "low-shot-inat", "linear-grid"]
DETERMINISTIC = {"knn", "class-retrieval"}
"""Nothing in them is drawn."""
OVER_DRAWS = {"few-shot", "few-shot-svm", "low-shot-inat"}
"""Their intervals are those of a mean over draws of training items: other draws have their own."""


class PlainViews:
    """Features in place of views: every view of an item is the same."""

    class_names = validation_from = None

    def __init__(self, bank: FeatureBank) -> None:
        self.labels, self._features = bank.labels, bank.features

    def epochs(self, plan: ViewPlan) -> Iterator[Iterator[ViewBatch]]:
        rng = np.random.default_rng(plan.seed)
        for _ in range(plan.num_epochs):
            rows = rng.permutation(plan.rows)
            pieces = (rows[start : start + plan.batch_size] for start in range(0, len(rows), plan.batch_size))
            yield (ViewBatch(features=self._features[piece], rows=piece) for piece in pieces)

    def plain(self, rows: NDArray[np.int64]) -> Iterator[ViewBatch]:
        yield ViewBatch(features=self._features[rows], rows=rows)


def measure(task: str, data: EvaluationData) -> dict[str, Score]:
    spec = Registry().task(task)
    if task in ON_VIEWS:
        banks = {role: bank for role, bank in data.banks.items() if role != "train"}
        data = replace(data, banks=banks, views=PlainViews(data.banks["train"]))
        spec = spec.model_copy(update={"params": {**spec.params, "batch_size": 16}})  # enough steps for so few items
    params = protocols.parameters(spec, task)
    return protocols.load(spec.protocol).run(data, params, np.random.default_rng(spec.seed))  # type: ignore[return-value]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def clouds(rng: np.random.Generator, spread: float, *, several: bool = False, shown: bool = True) -> EvaluationData:
    """Clouds of 400 training and 200 test items around the centres of the classes.

    Args:
        rng: draws them.
        spread: of a cloud; the centres are about 4 apart.
        several: an item lies at the sum of the centres of its classes, about every other one.
        shown: whether the features have to do with the labels.
    """
    centres_CD = 1.2 * rng.standard_normal((CLASSES, DIM))
    banks = {}
    for role, count in (("train", 400), ("test", 200)):
        labels = np.arange(count) % CLASSES
        present_NC = rng.random((count, CLASSES)) < 0.5 if several else np.eye(CLASSES)[labels]
        features = present_NC @ centres_CD * shown + spread * rng.standard_normal((count, DIM))
        found = np.where(present_NC, 1, -1).astype(np.int8) if several else labels
        banks[role] = replace(FeatureBank.from_arrays(features, found), num_classes=CLASSES)
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
    banks = {
        role: replace(bank, labels=names[bank.labels] if bank.labels.ndim == 1 else bank.labels[:, names])
        for role, bank in data.banks.items()
    }
    return replace(data, banks=banks)


TASKS = [(task, False) for task in (*ONE_LABEL, *ON_VIEWS)] + [(task, True) for task in SEVERAL_LABELS]
"""(task, whether on items of several labels)."""


@pytest.mark.parametrize("change", [permuted, scaled, relabelled])
@pytest.mark.parametrize(("task", "several"), [case for case in TASKS if case[0] not in ON_VIEWS])
def test_classes(task: str, several: Any, change: Any, rng: np.random.Generator) -> None:
    data = clouds(rng, 2.0 if several else 1.0, several=several)
    before, after = measure(task, data), measure(task, change(data, rng))
    assert before.keys() == after.keys()
    measured = [name for name, score in before.items() if score.ci95 is not None]
    assert protocols.headline(Registry().task(task), "multi-label" if several else "single-label") in measured
    for name in measured:
        low, high = before[name].ci95
        other_low, other_high = after[name].ci95
        moved = abs(after[name].value - before[name].value)
        # A power of two changes no digit of any feature, so that even what is drawn stays the same, but where a small
        # number is added to the norm; k-means does not look at labels.
        if (
            task in DETERMINISTIC
            or (change is scaled and task != "few-shot-svm")
            or (change is relabelled and task.startswith("kmeans"))
        ):
            assert moved <= 1e-12, name
        elif task in OVER_DRAWS and before[name].per_seed is not None:
            assert moved <= np.hypot(high - low, other_high - other_low) / 2, name
        else:
            assert low <= after[name].value <= high, name


@pytest.mark.parametrize(("task", "several"), TASKS)
def test_perfect_features_give_one(task: str, several: Any, rng: np.random.Generator) -> None:
    data = clouds(rng, 0.0 if task == "few-shot-svm" else 0.01, several=several)
    headline = protocols.headline(Registry().task(task), "multi-label" if several else "single-label")
    score = measure(task, data)[headline]
    assert score.value == pytest.approx(1.0, abs=1e-12)
    assert score.ci95 == pytest.approx((1.0, 1.0), abs=1e-12)


@pytest.mark.parametrize(("task", "several"), TASKS)
def test_random_features_give_chance(task: str, several: Any, rng: np.random.Generator) -> None:
    """Chance is the mean over many data sets of this kind; each one's interval of 95 % should hold it."""
    headline = protocols.headline(Registry().task(task), "multi-label" if several else "single-label")
    samples = [clouds(rng, 1.0, several=several, shown=False) for _ in range(8)]
    scores = [measure(task, sample)[headline] for sample in samples]
    chance = np.mean([score.value for score in scores])
    if several:
        truths = [sample.banks["test"].labels for sample in samples]
        blind = [mean_average_precision(rng.random(y.shape), y, difficult_is_negative=False) for y in truths]
        assert chance == pytest.approx(np.mean([found[headline == "map_11pt"] for found in blind]), abs=0.03)
    elif task.startswith("kmeans"):  # NMI: chance is above 0 and depends on the counts
        assert chance < 0.05
    elif task != "class-retrieval":
        assert chance == pytest.approx(1 / CLASSES, abs=0.03)
    if task not in OVER_DRAWS:  # those intervals are not over test items
        assert sum(score.ci95[0] <= chance <= score.ci95[1] for score in scores) >= 6


@pytest.fixture
def landmarks(rng: np.random.Generator) -> EvaluationData:
    places = rng.standard_normal((6, DIM))
    database = places[np.arange(48) % 6] + 0.8 * rng.standard_normal((48, DIM))
    queries = places + 0.8 * rng.standard_normal((6, DIM))
    truth = []
    for query in range(6):
        rows = rng.permutation(np.arange(query, 48, 6))
        truth.append(QueryTruth(easy=rows[:3], hard=rows[3:6], junk=rows[6:]))
    banks = {"database": FeatureBank.from_arrays(database), "queries": FeatureBank.from_arrays(queries)}
    return EvaluationData(banks=banks, num_classes=None, ground_truth=truth)


def test_landmarks_in_another_order(landmarks: EvaluationData, rng: np.random.Generator) -> None:
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
def test_copies_in_another_order(task: str, rng: np.random.Generator) -> None:
    originals, distractors = rng.standard_normal((30, DIM)), rng.standard_normal((50, DIM))
    original = np.repeat(np.arange(30), 2)
    queries = originals[original] + rng.standard_normal((60, DIM))
    block = np.tile(["strong", "crops/10"], 30)

    def scores(rows: NDArray[Any], asked: NDArray[Any]) -> dict[str, float]:
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


def test_spectrum_in_another_order(rng: np.random.Generator) -> None:
    classes = clouds(rng, 1.0)
    before, after = measure("spectrum", classes), measure("spectrum", scaled(permuted(classes, rng), rng))
    for name in ("rankme", "alpha_req"):
        assert after[name].value == pytest.approx(before[name].value, rel=1e-5)
