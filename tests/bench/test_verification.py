"""Records are reproduced, and what differs is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

from massl_bench.bench.verification import compare
from massl_bench.core.files import sha256_file
from massl_bench.core.fingerprint import EncoderFingerprint, ImageFeature
from massl_bench.records.reading import read_record
from massl_bench.records.record import RequestedOptions, ResultRecord
from massl_bench.specs.registry import packaged_root
from tests.conftest import Answer, make_hub_cache, write_image
from tests.made_records import edit, rehash

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


def test_what_the_user_said_of_model_and_data_is_said_again(
    run_cli: Cli, tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of heads of a checkpoint, the columns of a table, the splits of a folder, and a task of one's own."""
    network = timm.create_model("test_vit", num_classes=0, img_size=32)  # 2 heads; its width says 1
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    pictures = {kind: (image_folder / "test" / kind / "0.png").read_bytes() for kind in ("blue", "red")}

    def write_tables(root: Path) -> None:
        root.mkdir(parents=True)
        for split, kinds in (("learn", ["blue", "red"] * 2), ("held", ["red", "blue"])):
            images = [{"bytes": pictures[kind], "path": None} for kind in kinds]
            table = pa.table({"picture": images, "kind": [int(kind == "red") for kind in kinds]})
            pq.write_table(table, root / f"{split}-00000-of-00001.parquet")

    make_hub_cache(tmp_path / "hub", "org/pets", write_tables, monkeypatch)
    own = tmp_path / "own"
    (own / "tasks").mkdir(parents=True)
    text = (Path(__file__).parents[2] / "tasks" / "knn.toml").read_text().replace('name = "knn"', 'name = "knn-mine"')
    (own / "tasks" / "knn-mine.toml").write_text(text)
    asked = ("--set", "knn-mine.k=3", "--set", "knn-mine.headline=top1@3")
    task = ("run", "--include-path", own, "--task", "knn-mine", *asked)
    columns = ("--image-column", "picture", "--label-column", "kind")
    for arguments in (
        ("--dataset", "hf:org/pets", "--model", "pixels", *columns, "--split", "train=learn,test=held"),
        ("--dataset", f"folder:{image_folder}", "--model", "pixels", "--split", "train=test,test=train"),
        ("--dataset", f"folder:{image_folder}", "--model", tmp_path / "vit.pth", "--arch", "test_vit"),
    ):
        answer = run_cli(*task, *arguments)
        assert answer.code == 0, answer.err
    files = sorted(Path("results").rglob("*.json"))
    assert len(files) == 3
    answer = run_cli("verify", *files, "--include-path", own)
    assert answer.code == 0, answer.out + answer.err
    assert answer.out.count("reproduced exactly") == 3


def test_records_of_before_there_were_options_are_read(record_file: Path) -> None:
    edit(record_file, lambda content: content.pop("request"))
    assert read_record(record_file).request == RequestedOptions()


def test_a_changed_number_is_named(run_cli: Cli) -> None:
    run_cli("run", "--task", "knn", "--dataset", "digits", "--model", "pixels")
    file = Path("results/pixels/knn/digits.json")
    edit(file, lambda content: content["metrics"]["top1@20"].update(value=436.5 / 450))
    answer = run_cli("verify", file)
    assert answer.code == 1
    assert "top1@20: recorded 0.970000, found 0.957778" in answer.out
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

    def other_version(content: dict[str, Any]) -> None:
        content["identity"]["task"]["version"] = 7
        rehash(content)

    edit(file, other_version)
    answer = run_cli("verify", file)
    assert answer.code == 2
    assert "version 7 of knn, and this is version 1" in answer.error


@pytest.fixture
def measured(run_cli: Cli, image_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The file of a model's weights, and a record of it."""
    weights = tmp_path / "vit.pth"
    torch.manual_seed(5)
    torch.save(timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0, img_size=32).state_dict(), weights)
    _write_mine(weights)
    data = ("--dataset", f"folder:{image_folder}", "--set", "knn.k=3", "--set", "knn.headline=top1@3")
    answer = run_cli("run", "--task", "knn", "--model", "mine", *data)
    assert answer.code == 0, answer.err
    (record,) = Path("results").rglob("*.json")
    return weights, record


def _write_mine(weights: Path, heads: int = 3, side: int = 32) -> None:
    text = f'name = "mine"\nfile = "{weights}"\nsha256 = "{sha256_file(weights)}"\nnum_heads = {heads}\n'
    text += 'summary = "Of the tests"\nlicence = "none"\ncitation = "none"\n[preprocessing]\n'
    text += f'resize = {side}\nresize_mode = "shortest"\ncrop = 32\ninterpolation = "bilinear"\n'
    Path("weights").mkdir(exist_ok=True)
    Path("weights/mine.toml").write_text(text + "mean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\n")


def _other_weights(weights: Path, record: Path, images: Path) -> None:
    state = torch.load(weights)
    state["norm.weight"][3] += 0.5
    torch.save(state, weights)
    _write_mine(weights)


def _other_preprocessing(weights: Path, record: Path, images: Path) -> None:
    _write_mine(weights, side=36)


def _other_heads(weights: Path, record: Path, images: Path) -> None:
    _write_mine(weights, heads=4)


def _of_another_version(content: dict[str, Any]) -> None:
    content["environment"]["packages"]["torch"] = "1.0"
    _another_number(content)


def _another_number(content: dict[str, Any]) -> None:
    content["metrics"]["top1@3"]["value"] -= 0.125


def _another_feature(content: dict[str, Any]) -> None:
    content["fingerprint"]["images"][1]["values"][2] += 0.01
    _another_number(content)


CHANGES: dict[str, Callable[[Path, Path, Path], object]] = {
    "weights": _other_weights,
    "preprocessing": _other_preprocessing,
    "architecture": _other_heads,
    "versions": lambda weights, record, images: edit(record, _of_another_version),
    "data": lambda weights, record, images: write_image(images / "train" / "red" / "0.png", seed=999, channel=0),
    "features": lambda weights, record, images: edit(record, _another_feature),
    "number": lambda weights, record, images: edit(record, _another_number),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_the_first_thing_that_differs_is_named(
    run_cli: Cli, image_folder: Path, measured: tuple[Path, Path], kind: str
) -> None:
    weights, record = measured
    CHANGES[kind](weights, record, image_folder)
    answer = run_cli("verify", record)
    assert answer.code == 1, answer.out + answer.err
    assert answer.out.startswith(f"{record}: differs, first in its {kind}\n")
    verdict = (
        "another encoder than the record's: fingerprint." if kind in CHANGED_ENCODERS else "the record's encoder\n"
    )
    assert f"mine: by the fingerprint of its features, {verdict}" in answer.err
    (told,) = json.loads(run_cli("verify", record, "--json").out)
    assert told["first_difference"] == kind
    assert ("fingerprint_differences" in told) == (kind in CHANGED_ENCODERS)


CHANGED_ENCODERS = ("weights", "preprocessing", "architecture", "features")


@given(
    st.sets(
        st.sampled_from(["weights", "preprocessing", "network", "torch", "fingerprint", "data", "number"]), min_size=1
    )
)
def test_of_several_changes_the_first_explanation_is_named(changed: set[str]) -> None:
    """In the order in which one looks; alone, another version or fingerprint is no difference."""
    recorded, found = (_record_of(changed if number else set()) for number in (0, 1))
    verdict = compare(recorded, found)
    if changed <= {"torch", "fingerprint"}:
        assert verdict.first_difference is None
        return
    order = {"weights": "weights", "preprocessing": "preprocessing", "network": "architecture", "torch": "versions"}
    order |= {"data": "data", "fingerprint": "features", "number": "number"}
    assert verdict.first_difference == next(order[name] for name in order if name in changed)


@cache
def _bundled_record() -> ResultRecord:
    return read_record(packaged_root() / "results" / "massl-small-cifar10" / "knn" / "cifar10.json")


def _record_of(changed: set[str]) -> ResultRecord:
    record = _bundled_record()
    identity = record.identity
    image = ImageFeature(
        image="blocks", norm=2.0, mean=0.0, std=1.0, values=(1.5 if "fingerprint" in changed else 1.0,)
    )
    fingerprint = EncoderFingerprint(weights="w", network="n", preprocessing="p", embed_dim=4, images=(image,))
    model, preprocessing, dataset = identity.model, identity.preprocessing, identity.dataset
    packages = dict(record.environment.packages)
    assert preprocessing is not None
    if "weights" in changed:
        model = model.model_copy(update={"weights_sha256": "0" * 64})
    if "network" in changed:
        model = model.model_copy(update={"network_sha256": "0" * 64})
    if "preprocessing" in changed:
        preprocessing = preprocessing.model_copy(update={"crop": 31})
    if "torch" in changed:
        packages["torch"] = "1.0"
    if "data" in changed:
        dataset = dataset.model_copy(update={"fingerprint": "0" * 64})
    metrics = dict(record.metrics)
    if "number" in changed:
        name = identity.task.headline
        metrics[name] = metrics[name].model_copy(update={"value": 0.5})
    return record.model_copy(
        update={
            "identity": identity.model_copy(
                update={"model": model, "preprocessing": preprocessing, "dataset": dataset}
            ),
            "metrics": metrics,
            "fingerprint": fingerprint,
            "environment": record.environment.model_copy(update={"packages": packages}),
        }
    )
