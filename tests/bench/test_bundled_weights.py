"""The weights that are measured where no model is named: small, trained by this pretrainer, with log and results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from massl_bench.core.files import sha256_file
from massl_bench.models.checkpoints import build_checkpoint
from massl_bench.models.identity import tensors_sha256
from massl_bench.pretrain.configure import checked_config, load_config
from massl_bench.records.reading import find_records, read_record
from massl_bench.specs.manifest import DEFAULT_MODEL
from massl_bench.specs.registry import Registry
from tests.conftest import Answer

Cli = Callable[..., Answer]

ROOT = Path(__file__).parents[2]
FILE = ROOT / "weights" / f"{DEFAULT_MODEL}.safetensors"


def tensors_of(file: Path) -> str:
    """The hash of the file's tensors, as they are loaded."""
    return tensors_sha256(build_checkpoint(file, "x").backbone)


@pytest.fixture
def training() -> dict[str, Any]:
    manifest = Registry().manifest(DEFAULT_MODEL)
    assert manifest.sha256 == sha256_file(FILE)
    return manifest.training


def test_small(run_cli: Cli) -> None:
    assert FILE.stat().st_size <= 8e6
    card = json.loads(run_cli("info", DEFAULT_MODEL, "--json").out)
    assert card["num_parameters"] <= 2_000_000
    assert card["preprocessing"]["crop"] == 32
    assert card["licence"] == "Apache-2.0"


def test_the_configuration_is_the_presets(training: Any) -> None:
    preset = load_config("small-cifar10", [f"epochs={training['config']['epochs']}"])
    kept = checked_config(training["config"], "the manifest")  # with the defaults of what came later
    assert kept.model_copy(update={"run": None}) == preset.model_copy(update={"run": None})


def test_the_log_is_of_this_training(training: Any) -> None:
    lines = [json.loads(line) for line in (ROOT / "weights" / f"{DEFAULT_MODEL}.log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] + 1 == training["steps"]
    knn = [line["knn"] for line in lines if "knn" in line]
    assert len(knn) == training["config"]["epochs"]
    assert knn[-1] > knn[0] + 0.1


def test_results_are_of_these_weights_and_of_current_tasks() -> None:
    records = {}
    for path in find_records(ROOT / "results"):
        record = read_record(path)
        task = Registry().task(record.identity.task.name)
        assert (record.identity.task.version, record.identity.task.spec_sha256) == (task.version, task.spec_hash), path
        assert record.complete, path
        assert not record.departures, path
        records[record.identity.model.name, task.name, record.identity.dataset.name] = record
    expected = {"file": sha256_file(FILE), "tensors": tensors_of(FILE)}  # "file": in records of the first schema
    for (model, *_), record in records.items():
        if model == DEFAULT_MODEL:
            assert record.identity.model.weights_sha256 == expected[record.identity.model.weights_hash_of]
    own, pixels, untrained = (
        {task: record for (model, task, dataset), record in records.items() if (model, dataset) == (name, "cifar10")}
        for name in (DEFAULT_MODEL, "pixels", "random:resnet18@img_size=32")
    )
    assert own["knn"].headline.ci95[0] > pixels["knn"].headline.ci95[1] + 0.1
    assert own["knn"].headline.ci95[0] > untrained["knn"].headline.ci95[1] + 0.3
    assert own["linear"].headline.value > own["knn"].headline.value > own["kmeans"].metrics["accuracy"].value


def test_used_where_no_model_is_named(run_cli: Cli) -> None:
    answer = run_cli("run", "--task", "knn", "--dataset", "digits", "--json")
    assert answer.code == 0, answer.err
    assert f"no --model given: the bundled weights {DEFAULT_MODEL}" in answer.err
    assert json.loads(answer.out)[0]["record"]["identity"]["model"]["weights_sha256"] == tensors_of(FILE)
