"""Copy detection from images, from the command line: folders, patches, seeds, and what a record says of the copies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from massl_bench.core.settings import DEFAULT_PREPROCESSING
from massl_bench.core.values import EvaluationData, FeatureBank
from massl_bench.datasets import Dataset, open_dataset
from massl_bench.features import BankKey
from massl_bench.protocols import copy_detection
from massl_bench.specs.registry import Registry
from tests.conftest import Answer
from tests.datasets.test_generated_copies import BLOCKS, write_scene
from tests.datasets.test_layouts import options
from tests.protocols.banks import params_of

Cli = Callable[..., Answer]
METRICS = {f"map_{block.replace('/', '_')}" for block in BLOCKS}


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A folder of fourteen pictures without classes."""
    for number in range(14):
        write_scene(tmp_path / "scenes" / f"{number:02}.png", number)
    return tmp_path / "scenes"


def run(run_cli: Cli, folder: Path, *more: object, model: str = "pixels") -> dict[str, Any]:
    answer = run_cli("run", "--task", "copy-detection", "--dataset", f"folder:{folder}", "--model", model, *more)
    assert answer.code == 0, answer.err
    (path,) = Path("results").glob("*/copy-detection/*.json")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def values(record: dict[str, Any]) -> dict[str, float]:
    return {name: metric["value"] for name, metric in record["metrics"].items()}


def test_a_folder_of_images(run_cli: Cli, scenes: Path) -> None:
    record = run(run_cli, scenes)
    assert record["num_items"] == {"originals": 7, "queries": 7 * 19, "distractors": 7}
    assert set(record["metrics"]) == {*METRICS, "micro_ap"}
    assert record["identity"]["task"]["headline"] == "map_strong"
    assert record["departures"] == []
    found = values(record)
    assert found["map_jpegqual_75"] == 1.0  # pixels hardly change
    assert found["map_crops_80"] > found["map_crops_10"]
    assert record["metrics"]["map_strong"]["details"] == {"distractors": 7, "whitening": "none"}
    copies = record["generated_copies"]
    assert (copies["name"], copies["version"], copies["seed"]) == ("like-copydays", 1, 0)
    assert {"pillow", "libjpeg", "strong", "crops_kept_percent", "jpeg_qualities"} <= set(copies)
    verdict = run_cli("verify", *Path("results").rglob("*.json"))
    assert "reproduced exactly" in verdict.out


def test_a_seed_changes_the_copies_and_departs(run_cli: Cli, scenes: Path) -> None:
    before = run(run_cli, scenes)
    shutil.rmtree("results")
    after = run(run_cli, scenes, "--seed", "1")
    assert after["departures"] == ["--seed 1"]
    assert after["generated_copies"]["seed"] == 1
    keys = [record["identity"]["feature_keys"] for record in (before, after)]
    assert not set(keys[0].values()) & set(keys[1].values())
    assert values(before) != values(after)
    verdict = run_cli("verify", *Path("results").rglob("*.json"))
    assert "reproduced exactly" in verdict.out, verdict.out


def test_the_first_queries_only(run_cli: Cli, scenes: Path) -> None:
    record = run(run_cli, scenes, "--limit", "queries=19")  # the copies of one original
    assert record["num_items"]["queries"] == 19
    assert set(record["metrics"]) == {*METRICS, "micro_ap"}
    assert not record["complete"]


def test_other_tasks_read_the_folder_as_it_is(run_cli: Cli, scenes: Path) -> None:
    tasks = "copy-detection,copy-detection-top20,spectrum"
    answer = run_cli("run", "--task", tasks, "--dataset", f"folder:{scenes}", "--model", "pixels")
    assert answer.code == 0, answer.err
    assert answer.err.count("/queries: 133 images") == 1  # both tasks share the features
    assert answer.err.count("/all: 14 images") == 1


def test_a_vit_uses_class_token_and_gem(run_cli: Cli, scenes: Path, golden: Path) -> None:
    record = run(run_cli, scenes, model=str(golden / "official_format_checkpoint.pth"))
    identity = record["identity"]
    assert identity["model"]["embed_dim"] == 128
    assert identity["model"]["pooling"].startswith("class token and GeM (exponent 4")
    assert (identity["preprocessing"]["crop"], identity["preprocessing"]["resize_mode"]) == (320, "squash")


def test_a_network_without_tokens_says_what_it_uses(run_cli: Cli, scenes: Path) -> None:
    arguments = ("--task", "copy-detection", "--dataset", f"folder:{scenes}", "--dry-run")
    answer = run_cli("run", *arguments, "--model", "random:resnet10t")
    assert answer.code == 0, answer.err
    assert "has no class and patch tokens: copy-detection takes its own feature (pooled map)" in answer.err


def test_too_few_images_are_known_before_work_starts(run_cli: Cli, scenes: Path) -> None:
    for path in sorted(scenes.iterdir())[9:]:
        path.unlink()
    answer = run_cli("run", "--task", "copy-detection", "--dataset", f"folder:{scenes}", "--model", "pixels")
    assert answer.code == 2
    assert "found 9 images, expected at least 10" in answer.error
    assert not Path("results").exists()


def test_handed_features_without_copies_are_refused(run_cli: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", features=np.ones((20, 3), dtype=np.float32))
    arguments = ("--task", "copy-detection", "--features", tmp_path / "plain.npz", "--name", "mine")
    answer = run_cli("run", *arguments)
    assert answer.code == 2
    assert "needs the features originals, queries; the file's are unlabelled" in answer.error


def test_copies_are_made_of_the_images_of_class_folders_too(run_cli: Cli, image_folder: Path) -> None:
    answer = run_cli("run", "--task", "copy-detection", "--dataset", f"folder:{image_folder}", "--model", "pixels")
    assert answer.code == 0, answer.err
    assert "map_strong" in answer.out


def scored(dataset: Dataset, features: Callable[[str, int], np.ndarray[Any, Any]]) -> dict[str, float]:
    """The values of copy detection with features made up for each (role, number of items)."""
    banks = {role: FeatureBank.from_arrays(features(role, dataset.num_items(role))) for role in dataset.sources}
    data = EvaluationData(banks=banks, num_classes=None, ground_truth=dataset.ground_truth())
    params = params_of(copy_detection, "copy-detection")
    return {name: score.value for name, score in copy_detection.run(data, params, np.random.default_rng(0)).items()}


def test_perfect_features_give_one_and_random_ones_chance(tmp_path: Path) -> None:
    dataset = open_dataset("patches", Registry(), options(tmp_path))
    rng = np.random.default_rng(0)
    originals = rng.normal(size=(24, 64))
    perfect = {"originals": originals, "queries": np.repeat(originals, 19, axis=0)}
    assert set(scored(dataset, lambda role, count: perfect.get(role, rng.normal(size=(count, 64)))).values()) == {1.0}
    drawn = scored(dataset, lambda _, count: rng.normal(size=(count, 64)))
    # The original is at any of 48 ranks: AP by trapezoids is 1 at the first one, and 1 / (2 r + 2) at rank r from 0.
    ranks = np.arange(48)
    chance = np.where(ranks == 0, 1.0, 0.5 / (ranks + 1)).mean()
    assert np.mean([drawn[name] for name in METRICS]) == pytest.approx(chance, abs=0.02)
    assert drawn["micro_ap"] < 0.05


def test_photographs(run_cli: Cli, real_data: Path, tmp_path: Path) -> None:
    photographs = sorted((real_data / "photos").glob("*.jpg"))[:60]
    if not photographs:
        pytest.skip("MASSL_BENCH_DATA has no folder photos")
    (tmp_path / "photos").mkdir()
    for path in photographs:
        shutil.copy(path, tmp_path / "photos")
    record = run(run_cli, tmp_path / "photos")
    assert record["num_items"] == {"originals": 30, "queries": 30 * 19, "distractors": 30}
    found = values(record)
    assert found["map_jpegqual_75"] > found["map_strong"]
    assert found["map_jpegqual_75"] > 0.99


def test_keys_of_banks_stay() -> None:
    """The digest of a key that says of a network what its tensors do not tell."""
    key = BankKey(
        weights_sha256="w",
        network_sha256="a",
        pooling="p",
        preprocessing=DEFAULT_PREPROCESSING,
        dataset_fingerprint="f",
        split="test",
        limit=None,
        precision="fp32",
    )
    assert key.digest == "0c561a0306abd9c858dafafac0e34072dc24b135d5ed9bd06c02187a45775057"


@pytest.mark.parametrize("reference", ["patches", "folder"])
def test_a_sample_is_another_measurement(reference: str, scenes: Path, run_cli: Cli) -> None:
    dataset = f"folder:{scenes}" if reference == "folder" else reference
    command = ("run", "--task", "copy-detection", "--dataset", dataset, "--model", "pixels")
    records = []
    for number, sample in enumerate([(), ("--sample", "distractors=2")]):
        assert run_cli(*command, *sample, "--results-dir", f"results{number}").code == 0
        (path,) = Path(f"results{number}").rglob("*.json")
        records.append(json.loads(path.read_text()))
    whole, drawn = records
    assert whole["num_items"]["distractors"] > drawn["num_items"]["distractors"] == 2
    assert whole["identity"]["feature_keys"]["distractors"] != drawn["identity"]["feature_keys"]["distractors"]
    for role in ("originals", "queries"):
        refused = run_cli(*command, "--sample", f"{role}=2")
        assert refused.code == 2
        assert f"--sample {role}=2: the ground truth of" in refused.error
