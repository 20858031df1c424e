"""Cells run and recorded from Python, tables and verification of their records."""

from __future__ import annotations

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
