"""Every block's feature, against the protocols of a single feature."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import massl_bench as mb
from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.values import EvaluationData, Part
from massl_bench.protocols import knn, layers, linear
from tests.conftest import Answer
from tests.protocols.banks import bank, params_of

Cli = Callable[..., Answer]
WIDTHS = (3, 8, 5)


def three_blocks(val: bool = False) -> EvaluationData:
    """Features of three blocks, each of which knows more of the class than the one before."""
    rng = np.random.default_rng(1)
    banks = {}
    for role, count in (("train", 240), ("test", 90), *((("val", 40),) if val else ())):
        labels = np.arange(count) % 4
        pieces = [
            place * np.eye(4, width)[labels] + rng.standard_normal((count, width)) for place, width in enumerate(WIDTHS)
        ]
        parts = tuple(Part(f"b{number}", width) for number, width in enumerate(WIDTHS, 1))
        banks[role] = replace(bank(np.concatenate(pieces, axis=1), labels), parts=parts)
    return EvaluationData(banks=banks, num_classes=4)


def block_of(data: EvaluationData, place: int) -> EvaluationData:
    start = sum(WIDTHS[:place])
    banks = {
        role: replace(each, features=each.features[:, start : start + WIDTHS[place]], parts=())
        for role, each in data.banks.items()
    }
    return replace(data, banks=banks)


@pytest.mark.parametrize("val", [False, True])
def test_each_block_is_what_knn_and_linear_make_of_it(val: bool) -> None:
    data = three_blocks(val)
    scores = layers.run(data, params_of(layers, "layers"), np.random.default_rng(3))
    one = params_of(knn, "knn").model_copy(update={"k": (20,)})
    values = []
    for place in range(3):
        alone = block_of(data, place)
        nearest = knn.run(alone, one, np.random.default_rng(3))["top1@20"]
        fitted = linear.run(alone, params_of(linear, "linear"), np.random.default_rng(3))["top1"]
        assert scores[f"knn_top1@b{place + 1}"].value == nearest.value
        found = scores[f"linear_top1@b{place + 1}"]
        assert found.value == fitted.value
        assert found.details == fitted.details
        assert found.details["selection_split"] == ("val" if val else "10-fold cross-validation of 240 train")
        values.append(found.value)
    assert values == sorted(values)
    assert values[0] < values[2] - 0.2
    for name in ("knn_top1", "linear_top1"):
        assert scores[name].value == scores[f"{name}@b3"].value
        assert scores[name].ci95 == scores[f"{name}@b3"].ci95
        low, high = scores[name].ci95
        assert low < scores[name].value < high
        assert scores[name].items is not None
        assert scores[f"{name}@b3"].items is None
    assert scores["linear_top1"].items.mean() == scores["linear_top1"].value
    assert (scores["knn_top1"].predicted == data.banks["test"].labels).mean() == scores["knn_top1"].value


def test_what_it_refuses() -> None:
    data, params, rng = three_blocks(), params_of(layers, "layers"), np.random.default_rng(0)
    with pytest.raises(RequestError, match="of every block are needed"):
        layers.run(block_of(data, 0), params, rng)
    with pytest.raises(RequestError, match="k = 300 asked, but the training split has 240 images"):
        layers.run(data, params.model_copy(update={"k": 300}), rng)
    constant = data.banks["train"].features.copy()
    constant[:, 3:11] = 1
    banks = {**data.banks, "train": replace(data.banks["train"], features=constant)}
    with pytest.raises(CellError, match=r"training images \(block b2\)"):
        layers.run(replace(data, banks=banks), params, rng)


def test_the_curve_is_in_the_record(run_cli: Cli) -> None:
    cell = ("--dataset", "digits", "--model", "massl-small-cifar10", "--limit", "train=300,test=100")
    answer = run_cli("run", "--task", "layers,knn", *cell, "--set", "knn.k=20", "--set", "layers.num_c=5")
    assert answer.code == 0, answer.err
    (path,) = Path("results").rglob("layers/*.json")
    record = json.loads(path.read_text())
    assert record["identity"]["model"]["pooling"] == "pooled map, of each of 4 blocks"
    assert record["identity"]["model"]["embed_dim"] == 16 + 32 + 96 + 192
    assert list(record["curves"]["linear_top1"]) == ["b1", "b2", "b3", "b4"]
    (other,) = Path("results").rglob("knn/*.json")
    own = json.loads(other.read_text())["metrics"]["top1@20"]["value"]
    assert record["metrics"]["knn_top1"]["value"] == record["curves"]["knn_top1"]["b4"] == own
    again = run_cli("run", "--task", "layers", *cell, "--set", "layers.k=5")
    assert "images/s" not in again.err  # all blocks are in the cache


def test_networks_and_features_without_blocks_are_refused_before_work(run_cli: Cli, tmp_path: Path) -> None:
    answer = run_cli("run", "--task", "layers", "--dataset", "digits", "--model", "pixels")
    assert answer.code == 2
    assert "model pixels" in answer.error
    assert "has no blocks that are told apart" in answer.error
    labels = np.arange(40) % 2
    features = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    splits: dict[str, Any] = {
        "train_features": features,
        "train_labels": labels,
        "test_features": features,
        "test_labels": labels,
    }
    np.savez(tmp_path / "f.npz", **splits)
    answer = run_cli("run", "--task", "layers", "--features", str(tmp_path / "f.npz"), "--name", "mine")
    assert answer.code == 2
    assert "task layers reads every block of a network, which --features does not hold" in answer.error


def test_from_python(tmp_path: Path) -> None:
    encoder = mb.load_encoder("massl-small-cifar10", cache_dir=tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    images: Any = [(image, number % 2) for number, image in enumerate(pixels)]
    splits = {"train": images[:40], "test": images[40:]}
    banks = mb.extract(encoder, splits, task="layers", progress=False)
    assert [part.width for part in banks["test"].parts] == [16, 32, 96, 192]
    assert mb.evaluate("layers", banks, k=5, num_c=5).headline_name == "linear_top1"
    with pytest.raises(RequestError, match=r"extract\(encoder, dataset, task='layers'\)"):
        mb.evaluate("layers", mb.extract(encoder, splits, progress=False), k=5)
