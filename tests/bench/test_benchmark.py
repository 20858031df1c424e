"""Cells run and recorded from Python, tables and verification of their records."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import massl_bench as mb

LIMIT = {"train": 200, "test": 60}
HALF = (0.5, 0.5, 0.5)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(192, 12)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1))


def encoder(name: str = "mine") -> mb.Encoder:
    settings = mb.Preprocessing(resize=8, resize_mode="squash", crop=8, interpolation="bilinear", mean=HALF, std=HALF)
    return mb.Encoder.from_module(Net(), name=name, transform=settings)


def test_an_encoder_is_measured_recorded_and_found_again(tmp_path: Path) -> None:
    places: dict[str, Any] = {"results_dir": tmp_path / "results", "cache_dir": tmp_path / "cache", "progress": False}
    found = mb.benchmark([encoder(), "pixels"], tasks=["knn", "spectrum"], datasets="digits", **places)
    assert [outcome.status for outcome in found] == ["done"] * 4
    frame = found.to_frame()
    assert frame["model"].tolist() == ["mine", "mine", "pixels", "pixels"]
    scores = mb.evaluate("knn", mb.extract(encoder(), "digits", cache_dir=tmp_path / "cache", progress=False))
    assert frame["value"][0] == pytest.approx(float(scores.headline), abs=1e-12)
    assert "mine" in repr(found)
    assert "<table" in found._repr_html_()
    again = mb.benchmark(encoder(), tasks="knn", datasets="digits", **places)
    assert again[0].status == "finished"
    table = mb.leaderboard(results_dir=tmp_path / "results", bundled=False)
    assert {"mine", "pixels"} == set(table["model"])
    pixels = next(outcome for outcome in found if outcome.model == "pixels" and outcome.task == "knn")
    verdict = mb.verify(pixels.path, cache_dir=tmp_path / "other", progress=False)
    assert verdict.reproduced
    compared = mb.compare("pixels", "mine", task="knn", results_dir=tmp_path / "results")
    assert compared["models"][0] == ["pixels", "mine"]
    assert compared["difference"][0] == pytest.approx(frame["value"][0] - frame["value"][2])
    with pytest.raises(mb.RequestError, match="expected two models or more"):
        mb.compare("pixels", results_dir=tmp_path / "results")


def test_a_cell_that_fails_says_why_and_the_others_go_on(tmp_path: Path) -> None:
    suites = tmp_path / "own" / "tasks" / "suites"
    suites.mkdir(parents=True)
    cells = '{ task = "knn", dataset = "cifar10" }, { task = "knn", dataset = "digits" }'
    (suites / "mine.toml").write_text(f'name = "mine"\nsummary = "s"\ncells = [{cells}]\n')
    places: dict[str, Any] = {
        "results_dir": tmp_path / "results",
        "cache_dir": tmp_path / "cache",
        "include_path": [tmp_path / "own"],
    }
    found = mb.benchmark("pixels", "mine", offline=True, limit=LIMIT, progress=False, **places)
    assert [outcome.status for outcome in found] == ["failed", "done"]
    frame = found.to_frame()
    assert "cifar10 is not there" in frame["error"][0]
    assert frame["error"].isna().tolist() == [False, True]
    assert frame["value"].isna().tolist() == [True, False]
    assert [path.parent.name for path in places["results_dir"].rglob("*.json")] == ["knn"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "benchmark: give a suite, or tasks and datasets"),
        ({"suite": "quick", "tasks": "knn"}, "benchmark: give a suite, or tasks and datasets"),
        ({"tasks": "knn"}, "benchmark: datasets missing"),
        ({"suite": "quik"}, "did you mean quick"),
    ],
)
def test_requests_that_cannot_be(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(mb.RequestError, match=message):
        mb.benchmark("pixels", **arguments, results_dir=tmp_path / "results", progress=False)
    assert not (tmp_path / "results").exists()


def _problem(task: str, dataset: str, arguments: dict[str, Any]) -> str:
    """Returns why a cell cannot be planned, or failed."""
    try:
        return str(mb.benchmark("pixels", tasks=task, datasets=dataset, **arguments)[0].error)
    except mb.RequestError as error:
        return str(error)


def test_how_data_is_read(image_folder: Path, tmp_path: Path) -> None:
    """Every argument that an error names is one that can be given."""
    places: dict[str, Any] = {"results_dir": tmp_path / "results", "cache_dir": tmp_path / "cache", "progress": False}
    reference, params = f"folder:{image_folder}", {"knn": {"k": 1, "headline": "top1@1"}}
    turned = {"train": "test", "test": "train"}
    record = mb.benchmark("pixels", tasks="knn", datasets=reference, splits=turned, params=params, **places).records[0]
    assert record.num_items == {"train": 6, "test": 12}
    part: dict[str, Any] = {"sample": {"train": 4}, "progress": False, "cache": False}
    assert len(mb.extract(mb.load_encoder("pixels"), reference, **part)["train"]) == 4
    divided = mb.extract(mb.load_encoder("pixels"), f"{reference}/train", split_share=0.5, progress=False, cache=False)
    assert {role: len(bank) for role, bank in divided.items()} == {"train": 6, "test": 6}
    for arguments, message in (
        ({"split_share": 2.0}, "split_share=2.0: expected a number between 0 and 1"),
        ({"config": "large"}, "config: is for hf: data"),
        ({"max_pixels": 50}, "allow more with max_pixels=N, or remove the image"),
        ({"sample": {"train": 0}}, "sample={'train': 0}: expected numbers from 1"),
        ({"limit": {"train": 4}}, "are of 1 of its 2 classes; sample={'train': 4} draws as many"),
        ({"params": {"knn": {"k": 99}}}, "params={'knn': {'headline': 'top1@99'}}"),
    ):
        said = _problem("knn", reference, {**places, "params": params, **arguments})
        assert message in said
        assert "--" not in said
    with pytest.raises(mb.RequestError, match="splits: is for hf: data and class folders; the dataset is held in"):
        mb.extract(mb.load_encoder("pixels"), [], splits=turned)


def test_a_backbone_is_pretrained(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"batch_size": 512, "epochs": 1, "massl.teacher_temp_warmup_epochs": 1}
    settings |= {"optimiser.warmup_epochs": 0, "run.knn_every": 0}
    asked: dict[str, Any] = {"settings": settings, "weights_dir": tmp_path, "device": "cpu"}
    trained = mb.pretrain("digits", "tiny-digits", name="mine", **asked)
    assert trained.card.name == "mine"
    assert (tmp_path / "mine.toml").is_file()
    assert importlib.import_module("massl_bench.pretrain") is mb.pretrain  # imported by then
    assert trained(torch.zeros(2, 3, 8, 8)).shape == (2, trained.card.embed_dim)
    with pytest.raises(mb.RequestError, match="an earlier run of this name; go on with resume=True, or choose another"):
        mb.pretrain("digits", "tiny-digits", name="mine", **asked)
