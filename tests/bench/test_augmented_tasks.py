"""The tasks that run the backbone on augmented views, from the command line: small data, few epochs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import massl_bench as mb
from massl_bench.core.errors import RequestError
from massl_bench.features.views import EncodedViews
from tests.conftest import Answer, write_image

Cli = Callable[..., Answer]
LINEAR = ("run", "--task", "linear-augmented", "--set", "linear-augmented.epochs=3")
STRONG = ("--set", "linear-augmented.lr=0.5", "--set", "linear-augmented.batch_size=64")
LOW_SHOT = ("--task", "low-shot-inat", "--set", "low-shot-inat.epochs=3", "--set", "low-shot-inat.milestones=2")
FEW = ("--set", "low-shot-inat.shots=1,4", "--set", "low-shot-inat.num_draws=2")
DIGITS = ("--dataset", "digits", "--model", "pixels")


def record_of(folder: str) -> dict[str, Any]:
    (path,) = Path("results").glob(f"*/{folder}/*.json")
    return json.loads(path.read_text())


def banks() -> list[dict[str, Any]]:
    metas = Path(os.environ["MASSL_BENCH_CACHE"]).glob("features/*/*/meta.json")
    return [json.loads(path.read_text()) for path in metas]


def test_digits_are_learnt_and_the_record_says_how(run_cli: Cli) -> None:
    answer = run_cli(*LINEAR, *STRONG, *DIGITS)
    assert answer.code == 0, answer.err
    record = record_of("linear-augmented")
    top1 = record["metrics"]["top1"]
    assert top1["value"] > 0.5  # of ten classes, after three epochs
    assert top1["details"]["effective_lr"] == 0.5 * 64 / 256
    assert 1 <= top1["details"]["best_epoch"] <= 3
    assert top1["details"]["best_epoch_top1"] >= top1["value"]
    assert record["num_items"] == {"train": 1347, "test": 450}
    assert record["identity"]["task"]["params"]["crop_scale"] == [0.08, 1.0]
    assert set(record["identity"]["feature_keys"]) == {"train", "test"}
    assert record["timings"]["extract"] > 0
    assert record["selection_split"] is None
    assert [meta["key"]["split"] for meta in banks()] == ["test"]  # no bank of the training split
    assert "pixels on digits/train, epoch 3 of 3: 1,347 images" in answer.err


def test_finished_dry_run_and_limit(run_cli: Cli) -> None:
    limited = (*LINEAR, *DIGITS, "--limit", "train=200,test=50")
    plan = run_cli(*limited, "--dry-run")
    assert (
        "extract (images through the model on cpu: test 50, train in augmented views, 200 an epoch at most)" in plan.out
    )
    assert run_cli(*limited).code == 0
    record = record_of("linear-augmented")
    assert record["num_items"] == {"train": 200, "test": 50}
    assert not record["complete"]
    assert "finished before" in run_cli(*limited).out
    assert "finished (" in run_cli(*limited, "--dry-run").out
    other = run_cli(*limited, "--set", "linear-augmented.flip_probability=0.0", "--dry-run")
    assert "extract (images through the model on cpu: train in augmented views, 200 an epoch at most)" in other.out


def test_batch_size_and_workers_change_no_record(run_cli: Cli) -> None:
    limited = (*LINEAR, *STRONG, *DIGITS, "--limit", "train=300,test=50")
    run_cli(*limited)
    first = record_of("linear-augmented")
    assert run_cli(*limited, "--force", "--batch-size", "7", "--workers", "2").code == 0
    second = record_of("linear-augmented")
    assert first["identity"] == second["identity"]
    assert first["metrics"] == second["metrics"]


def test_verify_runs_the_backbone_again(run_cli: Cli) -> None:
    run_cli(*LINEAR, *STRONG, *DIGITS, "--limit", "train=300,test=50")
    (path,) = Path("results").rglob("*.json")
    answer = run_cli("verify", path)
    assert answer.code == 0, answer.err
    assert "reproduced exactly" in answer.out


def test_low_shot_on_any_single_label_dataset(run_cli: Cli) -> None:
    answer = run_cli("run", *LOW_SHOT, *FEW, *DIGITS)
    assert answer.code == 0, answer.err
    record = record_of("low-shot-inat")
    assert record["identity"]["preprocessing"]["interpolation"] == "bilinear"
    assert set(record["metrics"]) == {f"{name}@s{k}" for name in ("top1", "mean_per_class") for k in (1, 4)}
    score = record["metrics"]["top1@s4"]
    assert len(score["per_seed"]) == 2
    assert score["details"]["images"] == 40
    assert set(record["curves"]["top1"]) == {"s1", "s4"}


def test_a_folder_with_blue_and_red(run_cli: Cli, image_folder: Path) -> None:
    answer = run_cli(
        "run", "--task", "linear-augmented,linear-augmented-carp,low-shot", "--dataset", f"folder:{image_folder}",
        "--model", "pixels", "--set", "linear-augmented.epochs=5", "--set", "linear-augmented.lr=5.0",
        "--set", "linear-augmented.batch_size=4", "--set", "linear-augmented-carp.epochs=20",
        "--set", "linear-augmented-carp.lr=30.0",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    for line in answer.out.splitlines():
        assert " top1 100.00 " in line


def test_a_vit_gives_the_tokens_of_its_last_blocks(run_cli: Cli, golden: Path, image_folder: Path) -> None:
    checkpoint = golden / "official_format_checkpoint.pth"
    dataset = ("--dataset", f"folder:{image_folder}", "--model", str(checkpoint), "--set", "linear-augmented.epochs=1")
    answer = run_cli(
        "run", "--task", "knn,linear-augmented", *dataset, "--set", "knn.k=3", "--set", "knn.headline=top1@3"
    )
    assert answer.code == 0, answer.err
    model = record_of("linear-augmented")["identity"]["model"]
    own = record_of("knn")["identity"]["model"]
    assert model["pooling"].startswith("class tokens of the last ")
    assert model["embed_dim"] > own["embed_dim"]
    assert model["weights_sha256"] == own["weights_sha256"]
    assert {meta["dim"] for meta in banks()} == {model["embed_dim"], own["embed_dim"]}


def test_an_interruption_leaves_nothing(run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(EncodedViews, "_encoded", interrupted)
    answer = run_cli(*LINEAR, *DIGITS, "--limit", "60")
    assert answer.code == 130
    assert "interrupted" in answer.error
    assert not list(Path().rglob("*.json*"))


def test_a_damaged_training_image_fails_the_cell_alone(run_cli: Cli, image_folder: Path) -> None:
    (image_folder / "train" / "red" / "2.png").write_bytes(b"no image")
    answer = run_cli(*LINEAR, "--dataset", f"folder:{image_folder}", "--model", "pixels", "--skip-corrupt")
    assert answer.code == 1
    assert "2.png: corrupt image" in answer.error
    assert not list(Path().rglob("*.json"))


def test_features_cannot_be_augmented(run_cli: Cli, tmp_path: Path) -> None:
    arrays = {"train": (20, 4), "test": (8, 4)}
    labels = {f"{name}_labels": np.arange(shape[0]) % 2 for name, shape in arrays.items()}
    features = {f"{name}_features": np.ones(shape, dtype=np.float32) for name, shape in arrays.items()}
    np.savez(tmp_path / "mine.npz", **labels, **features)  # type: ignore[arg-type]
    answer = run_cli("run", "--task", "linear-augmented", "--features", tmp_path / "mine.npz", "--name", "mine")
    assert answer.code == 2
    assert (
        "task linear-augmented trains on augmented views of the images, which --features does not hold" in answer.error
    )
    assert "linear-augmented" not in answer.error.partition("tasks that apply")[2]
    with pytest.raises(RequestError, match="linear-augmented: trains on augmented views"):
        mb.evaluate("linear-augmented", {})


def test_a_class_without_an_image_is_named(run_cli: Cli, tmp_path: Path) -> None:
    for number, name in enumerate(("one", "two")):
        write_image(tmp_path / "d" / "train" / name / "0.png", seed=number)
        write_image(tmp_path / "d" / "test" / name / "0.png", seed=10 + number)
    answer = run_cli(*LINEAR, "--dataset", f"folder:{tmp_path / 'd'}", "--model", "pixels", "--limit", "train=1")
    assert answer.code == 2
    assert "are of 1 of its 2 classes; --sample train=1 draws as many from every class" in answer.error


def test_a_grid_of_learning_rates_is_thirteen_runs_of_one(run_cli: Cli) -> None:
    data = ("--dataset", "digits", "--model", "pixels", "--sample", "train=200,test=150")
    grid = "linear-grid-published"
    rates = "0.01,0.1,1.0,10.0"
    answer = run_cli(
        "run", "--task", grid, *data, "--set", f"{grid}.lr={rates}", "--set", f"{grid}.epochs=2",
        "--set", f"{grid}.batch_size=64", "--set", f"{grid}.cosine=epoch",
        "--set", f"{grid}.crop_interpolation=bilinear",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    found = record_of(grid)
    assert found["selection_split"] == "test"
    assert "chosen on the test images" in found["notes"][0]
    alone = {}
    for rate in rates.split(","):
        one = ("--set", "linear-augmented.epochs=2", "--set", "linear-augmented.batch_size=64")
        assert (
            run_cli("run", "--task", "linear-augmented", *data, *one, "--set", f"linear-augmented.lr={rate}").code == 0
        )
    for path in Path("results").glob("*/linear-augmented/*.json"):
        record = json.loads(path.read_text())
        alone[record["identity"]["task"]["params"]["lr"]] = record["metrics"]["top1"]["value"]
    assert len(set(alone.values())) > 2
    assert found["selection_curve"].keys() == {f"{rate:.6g}" for rate in alone}
    for rate, value in alone.items():
        assert abs(found["selection_curve"][f"{rate:.6g}"] - value) <= 1 / 150 + 1e-9


def test_a_grid_chooses_among_what_a_vit_has(run_cli: Cli, golden: Path, image_folder: Path) -> None:
    checkpoint = golden / "official_format_checkpoint.pth"
    answer = run_cli(
        "run", "--task", "linear-grid", "--dataset", f"folder:{image_folder}", "--model", str(checkpoint),
        "--img-size", "32", "--set", "linear-grid.epochs=2", "--set", "linear-grid.batch_size=4",
        "--set", "linear-grid.validation_share=0.4",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    record = record_of("linear-grid")
    assert "and mean of the last one's patch tokens" in record["identity"]["model"]["pooling"]
    details = record["metrics"]["top1"]["details"]
    told = {key.removesuffix(", there") for key in details if key.endswith(", there")}
    assert {"last 1", "last 1 and mean patch"} < told
    assert details["representation"] in told
    assert len(record["selection_curve"]) == 13
