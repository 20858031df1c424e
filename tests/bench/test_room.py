"""The memory of a protocol: said where it is much, refused where it is not there, and what is advised then helps."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from massl_bench.bench import room
from massl_bench.bench.planned import FeatureCell, ImageCell
from massl_bench.bench.planner import Planner
from massl_bench.bench.request import RunRequest
from massl_bench.bench.runner import run_request
from massl_bench.core.errors import RequestError
from massl_bench.core.memory import Memory
from massl_bench.datasets import DataOptions
from massl_bench.features import Reporting
from massl_bench.specs.registry import Registry

MB = 1 << 20


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """1,000 classes: 45 strengths are solved with 373 MB."""
    rng, labels = np.random.default_rng(0), np.arange(1000)
    train, test = (rng.standard_normal((1000, 64), dtype=np.float32) for _ in range(2))
    np.savez(tmp_path / "wide.npz", train_features=train, train_labels=labels, test_features=test, test_labels=labels)
    return tmp_path / "wide.npz"


def handed(file: Path, task: str = "linear", memory: int | None = None) -> RunRequest:
    return RunRequest(
        cells=[(task, file.stem)],
        models=[],
        features_file=file,
        name="m",
        memory=memory,
        device="cpu",
        data=DataOptions(cache_dir=file.parent / "cache"),
        results_dir=file.parent / "results",
    )


def on_digits(place: Path, task: str, sample: dict[str, int] | None = None) -> RunRequest:
    return RunRequest(
        cells=[(task, "digits")],
        models=["pixels"],
        device="cpu",
        data=DataOptions(cache_dir=place / "cache", sample=sample or {}),
        results_dir=place / "results",
    )


def planned(request: RunRequest) -> ImageCell | FeatureCell:
    (cell,) = Planner(request, Registry(), Reporting()).plan()
    assert isinstance(cell, ImageCell | FeatureCell)
    return cell


def test_what_memory_leaves_is_too_little_and_the_advice_is_enough(features: Path) -> None:
    with pytest.raises(RequestError) as raised:
        planned(handed(features, memory=100 * MB))
    text = str(raised.value)
    assert text.startswith("linear on wide: needs 3")
    assert "memory leaves it 100 MB; raise it: memory='" in text, text
    advised = re.search(r"memory='(\d+)M'", text)
    assert advised is not None
    planned(handed(features, memory=int(advised[1]) * MB))
    with pytest.raises(RequestError):
        planned(handed(features, memory=(int(advised[1]) - 1) * MB))


def test_fewer_images_are_advised_where_they_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,347 × 3,072 pixels are standardised in 95 MB."""
    monkeypatch.setattr(room, "free_memory", lambda _: 40 * MB)
    with pytest.raises(RequestError, match=r"and 40 MB are free; train on fewer images \(sample=") as raised:
        planned(on_digits(tmp_path, "kmeans"))
    advised = re.search(r"'train': (\d+)", str(raised.value))
    assert advised is not None, str(raised.value)
    planned(on_digits(tmp_path, "kmeans", {"train": int(advised[1])}))
    monkeypatch.setattr(room, "free_memory", lambda _: 1000)
    with pytest.raises(RequestError, match="give it a machine that has 95 MB free"):
        planned(on_digits(tmp_path, "kmeans"))


def test_what_is_finished_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = on_digits(tmp_path, "kmeans")
    (outcome,) = run_request(request, Registry(), Reporting())
    assert outcome.status == "done", outcome.error
    monkeypatch.setattr(room, "free_memory", lambda _: 1000)
    planned(request)
    with pytest.raises(RequestError):
        planned(replace(request, force=True))


def test_much_is_said_and_little_is_not(features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    request = handed(features, "few-shot")
    request = replace(request, overrides={"few-shot": {"shots": [1], "num_draws": 1, "headline": "top1@s1"}})
    (outcome,) = run_request(request, Registry(), Reporting(say=said.append))
    assert outcome.status == "done", outcome.error
    assert not [text for text in said if "memory" in text]
    monkeypatch.setattr(room, "_SUBSTANTIAL", MB)
    (outcome,) = run_request(replace(request, force=True), Registry(), Reporting(say=said.append))
    told = [text for text in said if "memory" in text]
    assert len(told) == 1
    assert re.fullmatch(
        r"few-shot on wide takes at most \d+ MB of memory beside its features \([\d.]+ GB free\)", told[0]
    )


def test_what_is_held_to_be_faster_stays_below_the_limit(features: Path) -> None:
    cell = planned(handed(features))
    found = room.Room(cell=cell, memory=Memory(host=5 * MB, more_host=9 * MB), device="cpu", limit=None)
    assert [replace(found, limit=limit * MB).host // MB for limit in (2, 5, 8, 20)] == [5, 5, 8, 14]


def test_a_gpu_that_is_too_small(features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = planned(handed(features))
    found = room.room_of(cell, "cuda:0")
    assert found is not None
    assert found.memory.host < 200 * MB  # what is solved is there
    assert found.memory.device > 1200 * MB
    free = {"cpu": 64 << 30, "cuda:0": 80 << 30}
    monkeypatch.setattr(room, "free_memory", lambda device: free[device])
    found.check()
    assert re.fullmatch(r"linear on wide takes at most 1\.\d GB of cuda:0 \(80\.0 GB free\)", str(found))
    free["cuda:0"] = 500 * MB
    with pytest.raises(
        RequestError, match=r"memory of cuda:0 .*, and 500 MB are free; compute on the CPU: device='cpu'"
    ):
        found.check()
