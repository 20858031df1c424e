"""Every golden number through `massl-bench run --features`, and files that are wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch  # noqa: F401  # before faiss

import massl_bench as mb
from massl_bench import cli
from massl_bench.core.errors import RequestError
from massl_bench.features.npz import read_features_file
from tests.conftest import FAULTS, GOLDEN


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs the command line; returns the metrics of its one record, or the exit code and the error."""

    def call(file: Path, task: str, *options: str) -> Any:
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


def test_knn_and_kmeans(run: Callable[..., Any], expected: Any) -> None:
    file = GOLDEN / "features_single_label.npz"
    knn = run(file, "knn")["metrics"]
    for k, (top1, top5) in expected["knn_top1_top5_by_k_T0.07"].items():
        if int(k) >= 10:
            assert 100 * knn[f"top1@{k}"]["value"] == pytest.approx(top1, abs=100 / 700 + 1e-6)
            assert 100 * knn[f"top5@{k}"]["value"] == pytest.approx(top5, abs=100 / 700 + 1e-6)
    kmeans = run(file, "kmeans-carp")["metrics"]
    for name, value in expected["kmeans"].items():
        assert kmeans[name]["value"] == pytest.approx(value, abs=1e-3)


def test_few_shot_svm_takes_the_draws_of_the_file_and_says_so(run: Callable[..., Any], expected: Any) -> None:
    metrics = run(GOLDEN / "features_multi_label.npz", "few-shot-svm")["metrics"]
    for k, golden in expected["few_shot_svm_C0.5"].items():
        np.testing.assert_allclose(100 * np.array(metrics[f"map@k{k}"]["per_seed"]), golden["runs"], atol=0.3)
        assert metrics[f"map@k{k}"]["details"]["draws"] == "handed in"


def test_retrieval(run: Callable[..., Any], expected: Any) -> None:
    truth = GOLDEN / "retrieval_ground_truth.json"
    metrics = run(GOLDEN / "features_retrieval.npz", "retrieval", "--ground-truth", str(truth))["metrics"]
    for setting, golden in expected["retrieval"].items():
        assert metrics[f"map_{setting}"]["value"] == pytest.approx(golden["map"], abs=1e-6)
        assert metrics[f"map_{setting}"]["details"]["queries_left_out"] == golden["empty_queries"]
        for k, value in zip((1, 5, 10), golden["mp_at_1_5_10"], strict=True):
            assert metrics[f"mp@{k}_{setting}"]["value"] == pytest.approx(value, abs=1e-6)


def test_copy_detection(run: Callable[..., Any], expected: Any, tmp_path: Path) -> None:
    file = GOLDEN / "features_copy_detection.npz"
    plain = run(file, "copy-detection-top20")["metrics"]
    assert plain["map_strong"]["value"] == pytest.approx(expected["copy_detection"]["map"], abs=1e-6)
    with np.load(file) as arrays, np.load(GOLDEN / "features_whitening.npz") as whitening:
        np.savez(tmp_path / "whitened.npz", **arrays, **whitening)
    whitened = run(tmp_path / "whitened.npz", "copy-detection-top20")["metrics"]
    assert whitened["map_strong"]["value"] == pytest.approx(expected["copy_detection_whitened"]["map"], abs=1e-6)


def test_a_headline_without_anything_to_find_is_known_before_work_starts(
    run: Callable[..., Any], tmp_path: Path
) -> None:
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


def test_the_headline_and_the_selection_fit_the_kind(run: Callable[..., Any]) -> None:
    record = run(GOLDEN / "features_multi_label.npz", "linear", "--set", "linear.num_c=5")
    assert record["identity"]["task"]["headline"] == "map"
    again = run(GOLDEN / "features_multi_label.npz", "linear", "--set", "linear.headline=map_11pt")
    assert again["identity"]["task"]["headline"] == "map_11pt"
    assert record["selection_split"] == "40 of 400 train, at random"


def test_a_task_of_another_kind_is_refused_with_those_that_apply(run: Callable[..., Any]) -> None:
    code, error = run(GOLDEN / "features_multi_label.npz", "knn")
    assert code == 2
    assert "tasks that apply: few-shot-svm, linear, spectrum" in error
    code, error = run(GOLDEN / "features_retrieval.npz", "retrieval")
    assert code == 2
    assert "need --ground-truth FILE.json" in error


def test_python_says_which_coding_a_bank_has() -> None:
    features, labels = np.eye(12, dtype=np.float32), np.tile([[0, 1], [1, 0], [1, 1]], (4, 1))
    banks = {role: mb.FeatureBank.from_arrays(features, labels) for role in ("train", "test")}
    with pytest.raises(mb.RequestError, match=r"no -1 \(absent\).*label_coding='0/1'"):
        mb.evaluate("linear", banks)
    bank = mb.FeatureBank.from_arrays(features, labels, label_coding="0/1")
    assert bank.labels.tolist() == (2 * labels - 1).tolist()
    with pytest.raises(ValueError, match="expected 1 present, 0 absent, found -1"):
        mb.FeatureBank.from_arrays(features, 2 * labels - 1, label_coding="0/1")


def test_python_names_the_tasks_that_apply_to_banks() -> None:
    features = np.eye(4, dtype=np.float32)
    one = {role: mb.FeatureBank.from_arrays(features, np.array([0, 1, 0, 1])) for role in ("train", "test")}
    with pytest.raises(mb.RequestError, match=r"few-shot-svm: needs multi-label banks.* are single-label; .*\bknn\b"):
        mb.evaluate("few-shot-svm", one)
    several = {role: mb.FeatureBank.from_arrays(features, np.eye(4, dtype=np.int8)) for role in ("train", "test")}
    with pytest.raises(mb.RequestError, match=r"are multi-label; tasks that apply: few-shot-svm, linear, spectrum$"):
        mb.evaluate("knn", several)


def multi_label_file(path: Path, train_labels: Any, test_labels: Any, **others: Any) -> Any:
    train, test = (np.ones((len(labels), 2), dtype=np.float32) for labels in (train_labels, test_labels))
    arrays = {"train_features": train, "test_features": test, **others}
    np.savez(path, **arrays, train_labels=train_labels, test_labels=test_labels)
    return read_features_file(path)


def test_multi_label_without_minus_one_is_absent_and_present(tmp_path: Path) -> None:
    labels = np.array([[1, 0], [0, 1], [1, 1]])
    handed = multi_label_file(tmp_path / "f.npz", labels, labels)
    assert handed.kind == "multi-label"
    assert handed.banks["train"].labels.tolist() == [[1, -1], [-1, 1], [1, 1]]
    assert handed.notes == (f"{tmp_path / 'f.npz'}: labels read as 0 absent, 1 present",)


@pytest.mark.parametrize(("zero_one", "other"), [("train", "test"), ("test", "train")])
def test_two_codings_in_one_file_are_refused(tmp_path: Path, zero_one: str, other: str) -> None:
    labels = np.array([[1, 0], [0, 1], [1, 1]])
    splits = {f"{zero_one}_labels": labels, f"{other}_labels": 2 * labels - 1}
    with pytest.raises(RequestError, match=rf"{zero_one}_labels holds 0 2 times .*2 in {other}_labels.*alike"):
        multi_label_file(tmp_path / "f.npz", **splits)
    # One −1 among many 0: unknown, or a slip, and not the only item that does not show its class.
    slip = np.tile(labels, (3, 1))
    slip[0, 1] = -1
    with pytest.raises(RequestError, match=r"holds 0 5 times .* add label_coding=np.array\('-1/0/1'\) to the file"):
        multi_label_file(tmp_path / "f.npz", slip, slip)


@pytest.mark.parametrize("values", [(0, 1), (-1, 1), (-1, 0, 1)])
def test_one_coding_is_found_for_all_splits_alike(tmp_path: Path, rng: np.random.Generator, values: Any) -> None:
    shares = [1 / len(values)] * len(values) if len(values) == 2 else [0.7, 0.1, 0.2]
    splits = [rng.choice(values, size=(count, 5), p=shares) for count in (40, 12)]
    handed = multi_label_file(tmp_path / "f.npz", *splits)
    for bank, labels in zip((handed.banks["train"], handed.banks["test"]), splits, strict=True):
        assert ((bank.labels == 1) == (labels == 1)).all()
        absent = 0 if -1 not in values else -1
        assert ((bank.labels == -1) == (labels == absent)).all()


def test_the_coding_can_be_declared(tmp_path: Path) -> None:
    mostly_difficult = np.array([[1, 0], [0, 0], [-1, 1]])
    handed = multi_label_file(tmp_path / "f.npz", mostly_difficult, mostly_difficult, label_coding=np.array("-1/0/1"))
    assert handed.banks["test"].labels.tolist() == mostly_difficult.tolist()
    assert handed.notes == ()
    with pytest.raises(RequestError, match="train_labels holds -1, and label_coding says 0/1"):
        multi_label_file(tmp_path / "f.npz", mostly_difficult, mostly_difficult, label_coding=np.array(["0/1"]))
    with pytest.raises(RequestError, match=r"label_coding: expected one of 0/1, -1/0/1, found '1/2'"):
        multi_label_file(tmp_path / "f.npz", mostly_difficult, mostly_difficult, label_coding=np.array("1/2"))


def test_random_features_under_two_codings_have_no_map(run: Callable[..., Any]) -> None:
    """They had a mAP of 100.0 [100, 100]: every 0 of the test split was left out as difficult."""
    code, error = run(FAULTS / "ml_m1_train_01_test.npz", "linear")
    assert code == 2
    assert "test_labels holds 0 99 times and -1 is there too (219 in train_labels, 0 in test_labels)" in error


@pytest.mark.parametrize("task", ["linear", "few-shot-svm"])
def test_random_features_under_one_coding(run: Callable[..., Any], tmp_path: Path, task: str) -> None:
    with np.load(FAULTS / "ml_m1_train_01_test.npz") as arrays:
        np.savez(tmp_path / "f.npz", **{**arrays, "test_labels": 2 * arrays["test_labels"] - 1})
        share = arrays["test_labels"].mean()
    record = run(tmp_path / "f.npz", task)
    metric = record["metrics"][record["identity"]["task"]["headline"]]
    assert metric["value"] < share + 0.25
    assert metric["ci95"][1] < 0.8


def test_classes_that_cannot_be_scored_are_named_and_counted(
    run: Callable[..., Any], tmp_path: Path, rng: np.random.Generator
) -> None:
    labels = {role: rng.choice((-1, 1), size=(60, 5)) for role in ("train", "test")}
    labels["test"][:, 1], labels["test"][:, 3] = 1, -1
    arrays = {f"{role}_features": rng.standard_normal((60, 4)).astype(np.float32) for role in labels}
    np.savez(tmp_path / "f.npz", **arrays, **{f"{role}_labels": each for role, each in labels.items()})  # type: ignore[arg-type]
    for task, metric in (("linear", "map"), ("few-shot-svm", "map@full")):
        record = run(tmp_path / "f.npz", task, "--set", f"{task}.bootstrap_resamples=20")
        assert record["metrics"][metric]["details"]["classes_left_out"] == 2
        assert record["metrics"][metric]["value"] < 0.8  # with class 1, whose every ranking is right, 0.2 more
        assert record["notes"][-2:] == [
            "left out of the mean, without a positive test image: class 3",
            "left out of the mean, without a negative test image: class 1",
        ]
    labels["test"][:, [0, 2, 4]] = 1
    np.savez(tmp_path / "f.npz", **arrays, **{f"{role}_labels": each for role, each in labels.items()})  # type: ignore[arg-type]
    code, error = run(tmp_path / "f.npz", "linear")
    assert code == 1
    assert "no class has a positive and a negative test image" in error
    assert "found 1 of 5 without a positive, 4 of 5 without a negative" in error


def test_neighbours_that_are_not_there_are_dropped(run: Callable[..., Any], tmp_path: Path) -> None:
    record = run(FAULTS / "longtail.npz", "knn")
    dropped = "k = 100, 200 dropped, too large for train 86, test 60"
    assert record["departures"] == [dropped]
    assert record["identity"]["task"]["params"]["k"] == [10, 20]
    assert record["identity"]["task"]["headline"] == "top1@20"
    with np.load(FAULTS / "longtail.npz") as arrays:
        few = {name: array[::8] if name.startswith("train") else array for name, array in arrays.items()}
    kept = np.isin(few["test_labels"], few["train_labels"])
    few |= {name: few[name][kept] for name in ("test_features", "test_labels")}
    np.savez(tmp_path / "few.npz", **few)
    record = run(tmp_path / "few.npz", "knn")
    assert record["departures"] == ["k = 20, 100, 200 dropped, too large for train 11, test 40"]
    assert record["identity"]["task"]["headline"] == "top1@10"
    np.savez(tmp_path / "fewer.npz", **few | {name: few[name][4:] for name in ("train_features", "train_labels")})
    code, error = run(tmp_path / "fewer.npz", "knn")
    assert code == 2
    advice = error[error.index("--set") :].split()
    assert advice == ["--set", "knn.k=7", "--set", "knn.headline=top1@7"]
    assert "top1@7" in run(tmp_path / "fewer.npz", "knn", *advice)["metrics"]


def test_few_held_out_images_do_not_choose_the_smallest_strength(run: Callable[..., Any]) -> None:
    """8 held-out images were all right from C = 0.01 on, and the smallest C gave 36.7."""
    record = run(FAULTS / "longtail.npz", "linear")
    top1 = record["metrics"]["top1"]
    assert top1["value"] == pytest.approx(59 / 60)
    assert record["selection_split"] == "10-fold cross-validation of 86 train"
    assert top1["details"]["C"] > 100
    assert [note for note in record["notes"] if "strengths have the same accuracy" in note]


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
def test_wrong_files(tmp_path: Path, change: Any, text: str) -> None:
    features = np.ones((2, 3), dtype=np.float32)
    arrays = {"train_features": features, "test_features": features}
    arrays |= {"train_labels": np.array([0, 1]), "test_labels": np.array([0, 1]), **change}
    np.savez(tmp_path / "f.npz", **{name: array for name, array in arrays.items() if array is not None})  # type: ignore[arg-type]
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
def test_wrong_ground_truth(tmp_path: Path, content: Any, text: str) -> None:
    (tmp_path / "truth.json").write_text(content)
    with pytest.raises(RequestError, match=text):
        read_features_file(GOLDEN / "features_retrieval.npz", tmp_path / "truth.json")
