"""What each item got makes up the metrics: their values are the means of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from massl_bench import protocols
from massl_bench.core.values import CopyTruth, EvaluationData, QueryTruth, Scores
from massl_bench.specs.registry import Registry
from tests.protocols.banks import evaluation

QUICK: dict[str, dict[str, Any]] = {
    "linear": {"num_c": 3, "log10_c_min": -2.0, "log10_c_max": 2.0},
    "low-shot": {"num_c": 3, "log10_c_min": -2.0, "log10_c_max": 2.0},
    "few-shot": {"shots": [1, 4]},
    "few-shot-svm": {"shots": [1, 4], "num_draws": 2},
    "kmeans": {"iterations": 5, "restarts": 1},
    "knn": {"k": [1, 10, 20]},
}


def run(task: str, data: EvaluationData) -> Scores:
    spec = Registry().task(task)
    changed = {**spec.params, **QUICK.get(task, {})}
    changed |= {"bootstrap_resamples": 10} if "bootstrap_resamples" in changed else {}
    spec = spec.model_copy(update={"params": changed})
    params = protocols.parameters(spec, task, check_headline=False)
    return protocols.run(spec, params, data, np.random.default_rng(0))


def check(scores: Scores, metrics: set[str]) -> None:
    """`metrics` are those that are means over items or queries, of what these got."""
    assert {name for name, score in scores.items() if score.items is not None} == metrics
    for name in metrics:
        assert np.mean(scores[name].items) == pytest.approx(scores[name].value, abs=1e-12), name


@pytest.fixture
def data() -> EvaluationData:
    rng = np.random.default_rng(0)
    labels = {role: rng.permutation(np.arange(count) % 5) for role, count in (("train", 400), ("test", 90))}
    labels["test"][0] = 4
    centres = rng.standard_normal((5, 6))
    splits = {role: (centres[each] + rng.standard_normal((len(each), 6)), each) for role, each in labels.items()}
    return evaluation(5, **splits)


@pytest.mark.parametrize(
    ("task", "metrics"),
    [
        ("knn", {"top1@1", "top1@10", "top1@20", "top5@10", "top5@20"}),
        ("linear", {"top1", "top5"}),
        ("low-shot", {"top1", "top5"}),
        ("few-shot", {"top1@s1", "top1@s4"}),
        ("kmeans", {"accuracy"}),
        ("class-retrieval", {"map@r", "recall@1", "recall@5", "recall@10"}),
    ],
)
def test_one_label_an_image(data: EvaluationData, task: str, metrics: set[str]) -> None:
    scores = run(task, data)
    check(scores, metrics)
    truth = data.banks["test"].labels
    predicted = {name: score.predicted for name, score in scores.items() if score.predicted is not None}
    assert len(predicted) == {"knn": 3, "few-shot": 0, "class-retrieval": 0}.get(task, 1)
    for name, class_N in predicted.items():
        np.testing.assert_array_equal(class_N == truth, scores[name].items)
        if task != "kmeans":
            means = [scores[name].items[truth == label].mean() for label in range(5)]
            assert scores[name.replace("top1", "mean_per_class")].value == pytest.approx(np.mean(means))


def test_retrieval() -> None:
    rng = np.random.default_rng(0)
    data = evaluation(None, database=(rng.standard_normal((40, 6)),), queries=(rng.standard_normal((7, 6)),))
    rows = np.arange(40)
    truth = [QueryTruth(easy=rows[i : i + 3], hard=rows[20 : 20 + i % 3], junk=rows[30:32]) for i in range(7)]
    scores = run("retrieval", EvaluationData(banks=data.banks, num_classes=None, ground_truth=truth))
    check(scores, set(scores))
    assert len(scores["map_easy"].items) == 7
    assert len(scores["map_hard"].items) == 4


def test_copy_detection() -> None:
    rng = np.random.default_rng(0)
    originals = rng.standard_normal((8, 6))
    data = evaluation(None, originals=(originals,), queries=(originals[[0, 1, 2, 3, 4]] + rng.standard_normal((5, 6)),))
    blocks = np.array(["strong", "strong", "crops/10", "strong", "crops/10"])
    truth = CopyTruth(original=np.array([0, 1, 2, -1, 4]), block=blocks)
    scores = run("copy-detection", EvaluationData(banks=data.banks, num_classes=None, ground_truth=truth))
    check(scores, {"map_strong", "map_crops_10"})
    assert len(scores["map_strong"].items) == 2
