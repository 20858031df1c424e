"""What a Python user calls: arrays, tensors and lists in, scores that show themselves, datasets held in Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets as hub
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision.datasets import FakeData

import massl_bench as mb


def clusters(count: int, seed: int, dims: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    return (np.eye(3, dims)[labels] + 0.3 * rng.standard_normal((count, dims))).astype(np.float32), labels


TRAIN, TEST = clusters(60, 0), clusters(30, 1)


def test_arrays_tensors_lists_and_words_give_one_number() -> None:
    expected = mb.evaluate("knn", train=TRAIN, test=TEST, k=20)
    words = np.array(["ape", "bee", "cat"])
    tensors = [(torch.from_numpy(x).requires_grad_(), torch.from_numpy(y)) for x, y in (TRAIN, TEST)]
    for train, test in (
        tensors,
        [(x.tolist(), y.tolist()) for x, y in (TRAIN, TEST)],
        [(pd.DataFrame(x), pd.Series(words[y])) for x, y in (TRAIN, TEST)],
        [(x.astype(np.float64), y + 7) for x, y in (TRAIN, TEST)],
        [mb.FeatureBank.from_arrays(*each) for each in (TRAIN, TEST)],
    ):
        found = mb.evaluate("knn", train=train, test=test, k=[20])
        assert found["top1@20"] == expected["top1@20"]
    assert expected.headline == expected["top1@20"]
    assert float(expected["top1@20"]) == expected["top1@20"].value


def test_knn_by_hand() -> None:
    """Each test item has one neighbour: the training item that points its way."""
    train = (np.eye(3), ["a", "b", "c"])
    test = ([[0.9, 0.1, 0], [0.2, 0, 5], [0, -1, 0.1]], ["a", "c", "b"])
    # The third points away from b: its nearest is c, at a cosine of 0.0995.
    assert float(mb.evaluate("knn", train=train, test=test, k=1)["top1@1"]) == pytest.approx(2 / 3)


def test_every_protocol_of_features_takes_arrays() -> None:
    rng = np.random.default_rng(0)
    pair: dict[str, Any] = {"train": TRAIN, "test": TEST}
    assert mb.evaluate("linear", **pair).headline.value > 0.9
    assert mb.evaluate("kmeans", **pair)["accuracy"].value > 0.9
    assert mb.evaluate("few-shot", **pair, shots=[1, 2])["top1@s2"].value > 0.6
    assert mb.evaluate("class-retrieval", test=TEST)["recall@1"].value > 0.8
    assert mb.evaluate("spectrum", features=TEST[0])["rankme"].value > 1
    several = np.stack([TRAIN[1] == each for each in range(3)], axis=1).astype(int)
    several_test = np.stack([TEST[1] == each for each in range(3)], axis=1).astype(int)
    multi: dict[str, Any] = {"train": (TRAIN[0], several), "test": (TEST[0], several_test)}
    assert mb.evaluate("linear", **multi).headline_name == "map"
    assert mb.evaluate("few-shot-svm", **multi, shots=[2], full=False)["map@k2"].value > 0.6
    database = rng.standard_normal((20, 8))
    truth: Any = [{"easy": [3], "hard": [], "junk": [7]}, {"easy": [4, 5]}]
    found = mb.evaluate("retrieval", database=database, queries=database[[3, 4]], ground_truth=truth)
    assert found["map_easy"].value > 0.5
    copies = mb.evaluate("copy-detection", originals=database, queries=database + 0.01, ground_truth=range(20))
    assert copies["map_strong"].value == 1.0
    truth = mb.CopyTruth(original=np.arange(20), block=np.full(20, "strong"))
    again = mb.evaluate("copy-detection", originals=database, queries=database + 0.01, ground_truth=truth)
    assert again["map_strong"] == copies["map_strong"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": TRAIN}, "knn: needs train, test; missing: test; found train"),
        ({"train": TRAIN, "test": TEST, "kk": 3}, "unknown parameter of knn 'kk'"),
        ({"banks": {}, "train": TRAIN}, "knn: banks and train were both given"),
        (
            {"train": TRAIN, "test": (TEST[0], ["a"] * 30)},
            "test: labels: class a does not occur in train",
        ),
        ({"train": (TRAIN[0], TRAIN[1][:5]), "test": TEST}, "train: labels: expected 60, found 5"),
        (
            {"train": (TRAIN[0], TRAIN[1] / 2), "test": TEST},
            "train: labels: expected whole numbers or words",
        ),
        (
            {"train": TRAIN, "test": (*TEST, 1)},
            "test: expected features [N, D], or a pair",
        ),
        ({"train": TRAIN, "test": ([["a"]], [0])}, "test: features: expected numbers, found"),
        ({"train": (TRAIN[0] * np.nan, TRAIN[1]), "test": TEST}, "train: features: expected finite numbers"),
    ],
)
def test_errors_speak_python(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(mb.RequestError) as error:
        mb.evaluate("knn", **arguments)
    assert message in str(error.value)
    assert "--" not in str(error.value)


def test_mixed_codings_are_refused() -> None:
    coded = np.where(np.eye(3, dtype=int)[TRAIN[1]] == 1, 1, -1)
    plain = np.eye(3, dtype=int)[TEST[1]]
    with pytest.raises(mb.RequestError, match="test: labels: no -1, and other splits have some"):
        mb.evaluate("linear", train=(TRAIN[0], coded), test=(TEST[0], plain))


def test_scores_show_themselves() -> None:
    scores = mb.evaluate("knn", train=TRAIN, test=TEST, k=[1, 5])
    assert scores.headline_name == "top1@1"
    frame = scores.to_frame()
    assert frame.loc["top1@5", "value"] == scores["top1@5"].value
    assert list(frame.columns) == ["value", "low", "high", "std"]
    assert f"{100 * scores['top1@1'].value:.2f}" in repr(scores)
    assert "<table" in scores._repr_html_()
    with pytest.raises(KeyError, match="knn measured top1@1"):
        scores["top1@20"]


def test_what_there_is() -> None:
    assert {"knn", "linear", "retrieval"} <= set(mb.list_tasks())
    assert "cifar10" in mb.list_datasets()
    assert "quick" in mb.list_suites()
    assert "pixels" in mb.list_models()
    assert mb.info("knn").params["temperature"] == 0.07
    assert mb.info("cifar10").splits["test"].size == 10_000
    with pytest.raises(mb.RequestError, match="did you mean knn"):
        mb.info("knnn")
    assert mb.__version__


def images(count: int) -> list[tuple[Image.Image, int]]:
    rng = np.random.default_rng(0)
    return [(Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)), index % 2) for index in range(count)]


def test_datasets_that_are_held_in_python() -> None:
    encoder = mb.load_encoder("pixels")
    items = images(6)
    bank = mb.extract(encoder, items, progress=False)["all"]
    assert bank.features.shape == (6, 3072)
    assert bank.labels.tolist() == [0, 1, 0, 1, 0, 1]
    pixels = mb.extract(encoder, [(np.asarray(image), label) for image, label in items], progress=False)["all"]
    np.testing.assert_array_equal(pixels.features, bank.features)
    columns = {"img": [image for image, _ in items], "label": [label for _, label in items]}
    features = hub.Features({"img": hub.Image(), "label": hub.ClassLabel(names=["x", "y"])})
    split = hub.Dataset.from_dict(columns, features=features)
    found = mb.extract(encoder, {"train": split, "test": split}, progress=False)
    np.testing.assert_array_equal(found["test"].features, bank.features)
    assert found["train"].class_names == ("x", "y")
    torch_items = mb.extract(encoder, FakeData(4, (3, 40, 30), num_classes=2), progress=False)["all"]
    assert torch_items.labels.tolist() == [int(FakeData(4, (3, 40, 30), num_classes=2)[i][1]) for i in range(4)]
    unlabelled = mb.extract(encoder, [image for image, _ in items], progress=False)["all"]
    assert unlabelled.labels is None


def test_what_is_no_image_is_refused() -> None:
    encoder = mb.load_encoder("pixels")
    with pytest.raises(mb.MasslBenchError, match=r"item 0 is a tensor .3, 40, 30.: leave the dataset's transform"):
        mb.extract(encoder, [(torch.zeros(3, 40, 30), 0)], progress=False)
    with pytest.raises(mb.RequestError, match="expected items with a length"):
        mb.extract(encoder, iter(images(2)), progress=False)
    columns = hub.Dataset.from_dict({"photo": [1, 2]})
    with pytest.raises(mb.RequestError, match="image_column: none is called image or img; say which of photo"):
        mb.extract(encoder, columns, progress=False)


def test_a_named_dataset_without_the_cache(tmp_path: Path) -> None:
    encoder = mb.load_encoder("pixels", cache_dir=tmp_path)
    kept = mb.extract(encoder, "digits", cache=False, cache_dir=tmp_path, limit=10, progress=False)
    assert not list(tmp_path.glob("features/*"))
    cached = mb.extract(encoder, "digits", cache_dir=tmp_path, limit=10, progress=False)
    np.testing.assert_array_equal(kept["test"].features, cached["test"].features)


def test_evaluating_arrays_imports_no_torch() -> None:
    code = (
        "import sys, numpy as np, massl_bench as mb\n"
        "x = np.eye(4, dtype=np.float32)\n"
        "mb.evaluate('copy-detection', originals=x, queries=x, ground_truth=range(4))\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
