"""Every golden number through `massl-bench run --features`, and files that are wrong."""

import json
import sys

import numpy as np
import pytest
import torch  # noqa: F401  # before faiss

import massl_bench as mb
from massl_bench import cli
from massl_bench.core.errors import RequestError
from massl_bench.features.npz import read_features_file
from tests.conftest import GOLDEN


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command line; returns the metrics of its one record, or the exit code and the error."""

    def call(file, task, *options):
        arguments = ["run", "--features", str(file), "--task", task, "--name", "golden", "--device", "cpu", *options]
        arguments += ["--results-dir", str(tmp_path / "results"), "--cache-dir", str(tmp_path / "cache"), "--json"]
        monkeypatch.setattr(sys, "argv", ["massl-bench", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        printed = capsys.readouterr()
        if exit_.value.code == 0:
            return json.loads(printed.out)[0]["record"]
        return exit_.value.code, printed.err + printed.out

    return call


def test_knn_and_kmeans(run, expected):
    file = GOLDEN / "features_single_label.npz"
    knn = run(file, "knn")["metrics"]
    for k, (top1, top5) in expected["knn_top1_top5_by_k_T0.07"].items():
        if int(k) >= 10:
            assert 100 * knn[f"top1@{k}"]["value"] == pytest.approx(top1, abs=100 / 700 + 1e-6)
            assert 100 * knn[f"top5@{k}"]["value"] == pytest.approx(top5, abs=100 / 700 + 1e-6)
    kmeans = run(file, "kmeans-carp")["metrics"]
    for name, value in expected["kmeans"].items():
        assert kmeans[name]["value"] == pytest.approx(value, abs=1e-3)


def test_few_shot_svm_takes_the_draws_of_the_file_and_says_so(run, expected):
    metrics = run(GOLDEN / "features_multi_label.npz", "few-shot-svm")["metrics"]
    for k, golden in expected["few_shot_svm_C0.5"].items():
        np.testing.assert_allclose(100 * np.array(metrics[f"map@k{k}"]["per_seed"]), golden["runs"], atol=0.3)
        assert metrics[f"map@k{k}"]["details"]["draws"] == "handed in"


def test_retrieval(run, expected):
    truth = GOLDEN / "retrieval_ground_truth.json"
    metrics = run(GOLDEN / "features_retrieval.npz", "retrieval", "--ground-truth", str(truth))["metrics"]
    for setting, golden in expected["retrieval"].items():
        assert metrics[f"map_{setting}"]["value"] == pytest.approx(golden["map"], abs=1e-6)
        assert metrics[f"map_{setting}"]["details"]["queries_left_out"] == golden["empty_queries"]
        for k, value in zip((1, 5, 10), golden["mp_at_1_5_10"], strict=True):
            assert metrics[f"mp@{k}_{setting}"]["value"] == pytest.approx(value, abs=1e-6)


def test_copy_detection(run, expected, tmp_path):
    file = GOLDEN / "features_copy_detection.npz"
    plain = run(file, "copy-detection-top20")["metrics"]
    assert plain["map_strong"]["value"] == pytest.approx(expected["copy_detection"]["map"], abs=1e-6)
    with np.load(file) as arrays, np.load(GOLDEN / "features_whitening.npz") as whitening:
        np.savez(tmp_path / "whitened.npz", **arrays, **whitening)
    whitened = run(tmp_path / "whitened.npz", "copy-detection-top20")["metrics"]
    assert whitened["map_strong"]["value"] == pytest.approx(expected["copy_detection_whitened"]["map"], abs=1e-6)


def test_a_headline_without_anything_to_find_is_known_before_work_starts(run, tmp_path):
    with np.load(GOLDEN / "features_copy_detection.npz") as arrays:
        blocks = np.full(len(arrays["queries"]), "crops/10")
        np.savez(tmp_path / "crops.npz", **arrays, query_block=blocks)
    code, error = run(tmp_path / "crops.npz", "copy-detection")
    assert code == 2
    advice = "--set copy-detection.headline=micro_ap"
    assert f"no query of crops has anything to find for the headline map_strong; {advice}" in error
    assert set(run(tmp_path / "crops.npz", "copy-detection", *advice.split())["metrics"]) == {
        "map_crops_10",
        "micro_ap",
    }

    file, truth = GOLDEN / "features_retrieval.npz", tmp_path / "truth.json"
    entries = json.loads((GOLDEN / "retrieval_ground_truth.json").read_text())
    truth.write_text(json.dumps([{**entry, "hard": []} for entry in entries]))
    code, error = run(file, "retrieval", "--ground-truth", str(truth), "--set", "retrieval.headline=map_hard")
    assert code == 2
    assert error.strip().endswith("for the headline map_hard; --set retrieval.headline=map_easy")
    record = run(file, "retrieval", "--ground-truth", str(truth))
    assert record["metrics"]["map_medium"]["details"]["settings_left_out"] == "hard"
    truth.write_text(json.dumps([{**entry, "easy": [], "hard": []} for entry in entries]))
    code, error = run(file, "retrieval", "--ground-truth", str(truth))
    assert code == 2
    assert "nothing else can be measured either" in error


def test_the_headline_and_the_selection_fit_the_kind(run):
    record = run(GOLDEN / "features_multi_label.npz", "linear", "--set", "linear.num_c=5")
    assert record["identity"]["task"]["headline"] == "map"
    again = run(GOLDEN / "features_multi_label.npz", "linear", "--set", "linear.headline=map_11pt")
    assert again["identity"]["task"]["headline"] == "map_11pt"
    assert record["selection_split"] == "40 of 400 train, at random"


def test_a_task_of_another_kind_is_refused_with_those_that_apply(run):
    code, error = run(GOLDEN / "features_multi_label.npz", "knn")
    assert code == 2
    assert "tasks that apply: few-shot-svm, linear, spectrum" in error
    code, error = run(GOLDEN / "features_retrieval.npz", "retrieval")
    assert code == 2
    assert "need --ground-truth FILE.json" in error


def test_python_names_the_tasks_that_apply_to_banks():
    features = np.eye(4, dtype=np.float32)
    one = {role: mb.FeatureBank.from_arrays(features, np.array([0, 1, 0, 1])) for role in ("train", "test")}
    with pytest.raises(mb.RequestError, match=r"few-shot-svm: needs multi-label banks.* are single-label; .*\bknn\b"):
        mb.evaluate("few-shot-svm", one)
    several = {role: mb.FeatureBank.from_arrays(features, np.eye(4, dtype=np.int8)) for role in ("train", "test")}
    with pytest.raises(mb.RequestError, match=r"are multi-label; tasks that apply: few-shot-svm, linear, spectrum$"):
        mb.evaluate("knn", several)


def test_multi_label_without_minus_one_is_absent_and_present(tmp_path):
    labels = np.array([[1, 0], [0, 1], [1, 1]])
    features = np.ones((3, 2), dtype=np.float32)
    arrays = {f"{role}_features": features for role in ("train", "test")}
    np.savez(tmp_path / "f.npz", **arrays, train_labels=labels, test_labels=labels)
    handed = read_features_file(tmp_path / "f.npz")
    assert handed.kind == "multi-label"
    assert handed.banks["train"].labels.tolist() == [[1, -1], [-1, 1], [1, 1]]
    np.savez(tmp_path / "f.npz", **arrays, train_labels=labels, test_labels=np.where(labels == 1, 1, -1))
    assert read_features_file(tmp_path / "f.npz").banks["train"].labels.tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"test_labels": np.array([0, 7])}, "test_labels: class 7 does not occur in train_labels"),
        ({"test_features": np.ones((2, 5), dtype=np.float32)}, "found train 3, test 5: features of two models"),
        ({"test_features": np.full((2, 3), np.nan, dtype=np.float32)}, "2 rows are not finite, the first is row 0"),
        ({"k1_run0": np.array([2])}, "k1_run0: expected rows of train_features, from 0 to 1"),
        ({"train_labels": np.array([[0, 2], [1, 0]])}, "expected labels of one number of classes"),
        ({"test_labels": None}, "test_labels missing; found train_features"),
    ],
)
def test_wrong_files(tmp_path, change, text):
    features = np.ones((2, 3), dtype=np.float32)
    arrays = {"train_features": features, "test_features": features}
    arrays |= {"train_labels": np.array([0, 1]), "test_labels": np.array([0, 1]), **change}
    np.savez(tmp_path / "f.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(RequestError, match=text) as error:
        read_features_file(tmp_path / "f.npz")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[]", "expected a list with an entry for each of 14 queries, found 0 entries"),
        ("{", "not a JSON file"),
        (
            json.dumps([{"easy": [180], "hard": [], "junk": []}] * 14),
            "query 0: easy names image 180, which is not there",
        ),
        (json.dumps([{"easy": [], "hard": []}] * 14), "query 0: expected the keys easy, hard and junk"),
    ],
)
def test_wrong_ground_truth(tmp_path, content, text):
    (tmp_path / "truth.json").write_text(content)
    with pytest.raises(RequestError, match=text):
        read_features_file(GOLDEN / "features_retrieval.npz", tmp_path / "truth.json")
