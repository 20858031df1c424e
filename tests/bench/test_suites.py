"""Suites: cells whose data is not there, and columns that show another metric than the task's headline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from massl_bench.specs.registry import Registry
from tests.conftest import Answer

Cli = Callable[..., Answer]


@pytest.fixture
def own_suite(tmp_path: Path) -> Callable[[str], Path]:
    """Writes the suite `mine` with the given cells; returns what --include-path takes."""

    def write(cells: str) -> Path:
        folder = tmp_path / "own" / "tasks" / "suites"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mine.toml").write_text(f'name = "mine"\nsummary = "s"\ncells = [{cells}]\n')
        return tmp_path / "own"

    return write


@pytest.mark.parametrize("suite", ["carp", "massl", "transfer"])
def test_cells_without_data_fail_with_instructions_and_all_are_tried(suite: str, run_cli: Cli, tmp_path: Path) -> None:
    places = ("--data-root", tmp_path, "--offline", "--model", "pixels")
    answer = run_cli("run", "--suite", suite, *places, "--json")
    assert answer.code == 1
    outcomes = json.loads(answer.out)
    registry = Registry()
    assert [(each["task"], each["dataset"]) for each in outcomes] == registry.suite(suite).pairs
    for each in outcomes:
        assert each["status"] == "failed"
        assert registry.dataset(each["dataset"]).by_hand in each["error"]
    assert f"{len(outcomes)} of {len(outcomes)} cells failed" in answer.err
    plans = run_cli("run", "--suite", suite, *places, "--dry-run").out.splitlines()
    assert len(plans) == len(outcomes)
    assert all(": missing (" in line for line in plans)


def test_the_published_metrics_are_shown() -> None:
    registry = Registry()
    headlines = registry.suite("transfer").headlines
    for task, dataset in registry.suite("transfer").pairs:
        shown = headlines.get((task, dataset), "top1").partition("@")[0].partition("_11pt")[0]
        assert shown == registry.dataset(dataset).metric, dataset
    for dataset in ("oxford-pets", "flowers102", "fgvc-aircraft"):
        assert headlines["linear", dataset] == "mean_per_class"
        assert headlines["knn", dataset] == "mean_per_class@20"
    assert headlines["linear", "voc2007"] == "map_11pt"
    assert len(headlines) == 7


def test_a_column_shows_the_metric_that_its_suite_names(run_cli: Cli, own_suite: Callable[[str], Path]) -> None:
    cells = (
        '{ task = "knn", dataset = "digits", headline = "mean_per_class@10" }, { task = "knn", dataset = "cifar10" }'
    )
    include = ("--include-path", own_suite(cells))
    answer = run_cli("run", "--suite", "mine", "--model", "pixels", "--offline", *include)
    assert answer.code == 1  # cifar10 is not there; digits is measured all the same
    record = json.loads(Path("results/pixels/knn/digits.json").read_text())
    assert record["identity"]["task"]["headline"] == "top1@20"
    assert not record["departures"]
    board = json.loads(run_cli("leaderboard", "--suite", "mine", "--json", *include).out)
    (row,) = board["rows"]
    assert row["metric"] == "mean_per_class@10"
    assert row["value"] == record["metrics"]["mean_per_class@10"]["value"]
    assert row["ci95_low"] == record["metrics"]["mean_per_class@10"]["ci95"][0]
    table = run_cli("leaderboard", "--suite", "mine", *include).out
    assert "knn digits mean_per_class@10" in table
    assert f"{100 * row['value']:.2f} ± " in table
    own = json.loads(run_cli("leaderboard", "--json", *include).out)["rows"][0]
    assert own["metric"] == "top1@20"


def test_a_record_without_the_metric_is_listed_apart(run_cli: Cli, own_suite: Callable[[str], Path]) -> None:
    run_cli("run", "--task", "knn", "--dataset", "digits", "--model", "pixels")
    include = own_suite('{ task = "knn", dataset = "digits", headline = "map" }')
    board = run_cli("leaderboard", "--suite", "mine", "--include-path", include)
    assert "without the metric map that suite mine shows of knn on digits" in board.out


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            '{ task = "knn", dataset = "digits", headline = "top1" }',
            "mine.toml: cells: headline 'top1' is not a metric of knn on digits: top1@10",
        ),
        (
            '{ task = "linear", dataset = "digits", headline = "map" }',
            "headline 'map' is not a metric of linear on digits: top1, top5, mean_per_class",
        ),
        (
            '{ task = "linear", dataset = "voc2007", headline = "top1" }',
            "headline 'top1' is not a metric of linear on voc2007: map, map_11pt",
        ),
        (
            '{ task = "knn", dataset = "digits" }, { task = "knn", dataset = "digits", headline = "top1@10" }',
            "mine.toml: cells: knn on digits is listed twice",
        ),
        ('{ task = "knn", dataset = "digits", headlin = "top1@10" }', "cells.0.headlin: is not a known key"),
    ],
)
def test_malformed_suites(cells: str, message: str, run_cli: Cli, own_suite: Callable[[str], Path]) -> None:
    answer = run_cli("run", "--suite", "mine", "--model", "pixels", "--include-path", own_suite(cells), "--offline")
    assert answer.code == 2
    assert message in answer.error
    assert not Path("results").exists()
