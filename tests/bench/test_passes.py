"""Cells that want other features of the same images: each image is decoded once, and every record is as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from massl_bench.bench import planner
from massl_bench.bench.planner import Planner
from massl_bench.bench.request import RunRequest
from massl_bench.bench.runner import Outcome, Runner
from massl_bench.core.errors import MasslBenchError, MissingDataError
from massl_bench.core.settings import PrecisionAgreement
from massl_bench.datasets import DataOptions, Dataset, EncodedImage, splits
from massl_bench.datasets.images.decoding import STORED, Decoding
from massl_bench.features import ExtractionOptions, Reporting
from massl_bench.features.options import Shard
from massl_bench.records.record import ResultRecord
from massl_bench.specs.registry import Registry
from tests.conftest import Answer
from tests.datasets.copies import LANDMARK_SIZES, small_registry, write_landmarks

Cli = Callable[..., Answer]
VIT = str(Path(__file__).parents[1] / "golden" / "official_format_checkpoint.pth")
TOGETHER = ("knn", "layers", "kmeans-carp", "kmeans")
SET: dict[str, dict[str, Any]] = {"knn": {"k": [3], "headline": "top1@3"}, "layers": {"k": 3}}
IMAGES = 12 + 6
"""Of `image_folder`."""


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one with each image that is decoded."""
    found, decode = list[None](), splits.decode_rgb

    def counted(encoded: EncodedImage, decoding: Decoding = STORED) -> Any:
        found.append(None)
        return decode(encoded, decoding)

    monkeypatch.setattr(splits, "decode_rgb", counted)
    return found


def request_of(image_folder: Path, cache: Path, tasks: tuple[str, ...], results: str = "results") -> RunRequest:
    return RunRequest(
        cells=[(task, f"folder:{image_folder}") for task in tasks],
        models=[VIT],
        overrides={task: changes for task, changes in SET.items() if task in tasks},
        device="cpu",
        data=DataOptions(cache_dir=cache, offline=True),
        results_dir=cache.parent / results,
    )


def run(request: RunRequest, reporting: Reporting = Reporting()) -> list[Outcome]:  # noqa: B008  # frozen
    found = Planner(request, Registry(), reporting)
    return list(Runner(found, reporting).run(found.plan()))


def records(outcomes: list[Outcome]) -> dict[str, ResultRecord]:
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    return {outcome.task: outcome.record for outcome in outcomes if outcome.record is not None}


def test_a_run_decodes_each_image_once(image_folder: Path, tmp_path: Path, decoded: list[None]) -> None:
    alone = dict[str, ResultRecord]()
    for task in TOGETHER:
        alone |= records(run(request_of(image_folder, tmp_path / task, (task,), f"r-{task}")))
    assert len(decoded) == len(TOGETHER) * IMAGES
    decoded.clear()
    said: list[str] = []
    together = records(run(request_of(image_folder, tmp_path / "c", TOGETHER), Reporting(say=said.append)))
    assert len(decoded) == IMAGES
    name = together["knn"].identity.model.name
    assert [text for text in said if "decoded once" in text] == [
        f"{name} on folder:{image_folder}/{role}: each image is decoded once for knn, layers, kmeans-carp"
        for role in ("train", "test")
    ]
    for task, record in together.items():
        assert (record.identity, record.metrics) == (alone[task].identity, alone[task].metrics)
    # The first cell has waited for all of it, and says so.
    assert [record.num_extracted for record in together.values()] == [IMAGES, 0, 0, 0]
    assert [record.extracted_along for record in together.values()] == [["layers", "kmeans-carp"], [], [], []]
    assert [record.extracted_along for record in alone.values()] == [[]] * len(TOGETHER)


def test_a_cell_that_is_finished_brings_nothing_along(image_folder: Path, tmp_path: Path, decoded: list[None]) -> None:
    request = request_of(image_folder, tmp_path / "a", ("kmeans-carp",))
    run(request)
    decoded.clear()
    together = records(run(request_of(image_folder, tmp_path / "b", TOGETHER)))
    assert len(decoded) == IMAGES
    assert together["knn"].extracted_along == ["layers"]


def test_a_shard_whose_others_never_come(image_folder: Path, tmp_path: Path, decoded: list[None]) -> None:
    request = request_of(image_folder, tmp_path / "c", TOGETHER)
    shard = replace(request, extraction=ExtractionOptions(shard=Shard(0, 2)))
    together = records(run(shard))
    assert len(decoded) == IMAGES
    assert {task: record.extracted_along for task, record in together.items() if record.num_extracted} == {
        "knn": ["layers", "kmeans-carp"]
    }


def test_a_dataset_that_is_downloaded_first(
    image_folder: Path, tmp_path: Path, decoded: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells that could not be planned yet are known when the first of them has brought the images."""
    opened = planner.open_dataset

    def fetched(*arguments: Any, fetch: bool = False) -> Dataset | MasslBenchError:
        if not fetch:
            raise MissingDataError("not there")
        return opened(*arguments)

    monkeypatch.setattr(planner, "open_dataset", fetched)
    request, said = request_of(image_folder, tmp_path / "c", TOGETHER), list[str]()
    online = replace(request, data=DataOptions(cache_dir=tmp_path / "c"))
    together = records(run(online, Reporting(say=said.append)))
    assert len(together) == len(TOGETHER)
    assert len(decoded) == IMAGES
    assert [text for text in said if text.startswith("downloading")] == [f"downloading folder:{image_folder}"]


def test_samples_in_fp32_are_decoded_once_too(
    image_folder: Path, tmp_path: Path, decoded: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PrecisionAgreement, "shortfall", lambda *_: None)  # it is about what is measured

    def in_bf16(cache: str, tasks: tuple[str, ...]) -> dict[str, ResultRecord]:
        request = request_of(image_folder, tmp_path / cache, tasks, f"r-{cache}")
        return records(run(replace(request, extraction=ExtractionOptions(precision="bf16"))))

    together = in_bf16("c", TOGETHER)
    assert len(decoded) == 2 * IMAGES  # for the banks, and for the samples, which are all of them
    assert [record.num_extracted for record in together.values()] == [2 * IMAGES, 0, 0, 0]
    alone = {task: in_bf16(task, (task,))[task] for task in TOGETHER}
    for task, record in together.items():
        assert record.precision_agreement == alone[task].precision_agreement
        assert record.precision_agreement["train"].min_cosine < 1
        assert (record.identity, record.metrics) == (alone[task].identity, alone[task].metrics)


def test_a_plan_says_whose_features_are_read(image_folder: Path, run_cli: Cli) -> None:
    tasks = ("--task", "knn,kmeans-carp,kmeans", "--set", "knn.k=3", "--set", "knn.headline=top1@3")
    plan = run_cli("run", *tasks, "--dataset", f"folder:{image_folder}", "--model", VIT, "--dry-run", "--json")
    details = [each["detail"].partition(": ")[2] for each in json.loads(plan.out)]
    with_knn = "train 12 (decoded once, with knn), test 6 (decoded once, with knn)"
    assert details == ["train 12, test 6", with_knn, "train 12 (those of knn), test 6 (those of knn)"]


@pytest.mark.parametrize("first", ["retrieval", "retrieval-single"])
def test_crops_to_boxes_and_scales(first: str, tmp_path: Path, decoded: list[None], run_cli: Cli) -> None:
    write_landmarks(tmp_path / "data" / "roxford5k", "roxford5k")
    small_registry(tmp_path, "roxford5k", LANDMARK_SIZES)
    tasks = list(dict.fromkeys([first, "retrieval", "retrieval-box", "retrieval-single", "retrieval-single-box"]))
    places = ("--include-path", tmp_path / "registry", "--data-root", tmp_path / "data", "--offline")
    command = ("run", "--task", ",".join([*tasks, "retrieval-224"]), "--dataset", "roxford5k", "--model", VIT, *places)
    plan = run_cli(*command, "--dry-run", "--json")
    details = [each["detail"] for each in json.loads(plan.out)]
    assert details[0].endswith("database 6, queries 2")
    assert details[-1].endswith(f"database 6 (decoded once, with {first}), queries 2 (decoded once, with {first})")
    assert "to extract: 8 images, 8 banks, about " in plan.err  # of 3 ways to see the database, and 5 the queries
    decoded.clear()
    answer = run_cli(*command)
    assert answer.code == 0, answer.err
    assert len(decoded) == sum(LANDMARK_SIZES.values())
    assert f"roxford5k/database: each image is decoded once for {', '.join(tasks[:1])}" in answer.err
