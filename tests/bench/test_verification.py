"""Records are reproduced, and what differs is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch

from massl_bench.records.record import RequestedOptions, read_record
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
    task = ("run", "--include-path", own, "--task", "knn-mine", "--set", "knn-mine.k=3")
    task = (*task, "--set", "knn-mine.headline=top1@3")
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
