"""Records are reproduced, and what differs is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from massl_bench import results
from tests.conftest import Answer, write_image

Cli = Callable[..., Answer]


def test_records_are_reproduced(run_cli: Cli, golden: Path) -> None:
    run_cli("run", "--task", "knn", "--dataset", "digits", "--model", "pixels")
    run_cli(
        "run",
        "--task",
        "knn",
        "--dataset",
        "digits",
        "--model",
        "pixels",
        "--limit",
        "300",
        "--set",
        "knn.k=5,20",
        "--seed",
        "9",
    )
    run_cli("run", "--task", "knn", "--features", golden / "features_single_label.npz", "--name", "mine")
    retrieval, truth = golden / "features_retrieval.npz", golden / "retrieval_ground_truth.json"
    run_cli("run", "--task", "retrieval", "--features", retrieval, "--ground-truth", truth, "--name", "mine")
    files = sorted(Path("results").rglob("*.json"))
    assert len(files) == 4
    answer = run_cli("verify", *files)
    assert answer.code == 0, answer.out + answer.err
    assert answer.out.count("reproduced exactly") == 4
    assert sorted(Path("results").rglob("*.json")) == files  # nothing was written


def test_a_changed_number_is_named(run_cli: Cli) -> None:
    run_cli("run", "--task", "knn", "--dataset", "digits", "--model", "pixels")
    file = Path("results/pixels/knn/digits.json")
    content = json.loads(file.read_text())
    content["metrics"]["top1@20"]["value"] += 0.01
    file.write_text(json.dumps(content))
    answer = run_cli("verify", file)
    assert answer.code == 1
    assert "top1@20: recorded 0.967778, found 0.957778" in answer.out
    assert answer.out.count("recorded") == 1


def test_changed_data_is_named(run_cli: Cli, image_folder: Path) -> None:
    arguments = ("--task", "knn", "--dataset", f"folder:{image_folder}", "--model", "pixels", "--set", "knn.k=3")
    run_cli("run", *arguments, "--set", "knn.headline=top1@3")
    (file,) = Path("results").rglob("*.json")
    assert run_cli("verify", file).code == 0
    write_image(image_folder / "train" / "red" / "0.png", seed=999, channel=0)
    answer = run_cli("verify", file)
    assert answer.code == 1
    assert "dataset.fingerprint: recorded" in answer.out
    assert "feature_keys.train: recorded" in answer.out


def test_records_of_another_version(run_cli: Cli) -> None:
    run_cli("run", "--task", "knn", "--dataset", "digits", "--model", "pixels")
    file = Path("results/pixels/knn/digits.json")
    content = json.loads(file.read_text())
    content["identity"]["task"]["version"] = 7
    content["identity_sha256"] = results.Identity.model_validate(content["identity"]).digest
    file.write_text(json.dumps(content))
    answer = run_cli("verify", file)
    assert answer.code == 2
    assert "version 7 of knn, and this is version 1" in answer.error
