"""A metric of which less is better: what is bold, ranked first, called better, and left out of means."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from massl_bench.core.values import Score
from massl_bench.metrics.direction import less_is_better
from massl_bench.protocols import check_suite
from massl_bench.records.items import write_items
from massl_bench.records.latex import to_latex
from massl_bench.records.markdown import to_markdown
from massl_bench.records.outcomes import OutcomesOf
from massl_bench.records.published import claims
from massl_bench.records.rows import Selection, collect
from massl_bench.records.tables import to_csv, to_json
from massl_bench.report.board import sections
from massl_bench.report.page import leaderboard_page
from massl_bench.specs.registry import Registry
from tests.conftest import Answer
from tests.made_records import rehash, write_sealed
from tests.report.made import record

Cli = Callable[..., Answer]
SUITE = """name = "two"
summary = "an error and an accuracy"
cells = [
    { task = "linear", dataset = "imagenet-c", headline = "mce" },
    { task = "linear", dataset = "imagenet-1k" },
]
"""


def place(model: str, error: float, accuracy: float) -> None:
    for dataset, value in (("imagenet-c", 1 - error), ("imagenet-1k", accuracy)):
        content = record(model, "linear", dataset, value)
        if dataset == "imagenet-c":
            content["metrics"]["mce"] = {"value": error, "ci95": [error - 0.01, error + 0.01]}
        write_sealed(Path("results") / model / "linear" / f"{dataset}.json", content)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    place("good", error=0.6, accuracy=0.8)
    place("poor", error=0.9, accuracy=0.5)
    suite = tmp_path / "own" / "tasks" / "suites" / "two.toml"
    suite.parent.mkdir(parents=True)
    suite.write_text(SUITE)
    return Registry(include=[tmp_path / "own"])


ONLY_OURS = Selection(packaged=False)


def test_names() -> None:
    assert [
        name for name in ("mce", "mce@20", "mce_plain@s5", "error", "top1_error@3") if not less_is_better(name)
    ] == []
    assert [name for name in ("top1@20", "errors", "mcer", "map", "rankme") if less_is_better(name)] == []


def test_the_smaller_one_is_bold_in_every_table(registry: Registry) -> None:
    board = collect(Path("results"), registry, "two", ONLY_OURS)
    table = to_markdown(board)
    assert "linear imagenet-c mce ↓" in table
    good, poor = (
        next(line for line in table.splitlines() if line.startswith(f"| {name}")) for name in ("good", "poor")
    )
    assert good.split()[3:10] == ["**60.00", "±", "1.00**", "|", "**80.00", "±", "1.00**"]
    assert "**" not in poor
    assert good.rstrip(" |").endswith("80.00 (1/1)")  # of accuracies alone
    assert "The mean leaves out what is no fraction that should grow: linear imagenet-c. ↓: less is better." in table
    assert r"\bfseries 60.00 & \bfseries 80.00" in to_latex(board)
    assert r"mce \(\downarrow\)" in to_latex(board)
    assert [row["less_is_better"] for row in to_json(board)["rows"]] == [False, True, False, True]
    lines = list(csv.DictReader(to_csv(board).splitlines()))
    assert [(line["metric"], line["less_is_better"]) for line in lines if line["value"] == "0.6"] == [("mce", "True")]


def test_ranks_and_the_page(registry: Registry) -> None:
    board = collect(Path("results"), registry, None, ONLY_OURS)
    (section,) = (s for s in sections(board, registry, claims(registry), OutcomesOf()) if s.name == "two")
    error = section.columns[0]
    assert (error.metric, error.averaged, error.counted) == ("mce", False, True)
    assert error.ranks is not None
    assert sorted(error.ranks.rank) == [1, 2]
    good, poor = section.lines
    assert (good.name, good.mean, good.present) == ("good", 0.8, 2)
    assert good.standing is not None
    assert poor.standing is not None
    assert (good.standing.mean_rank, good.standing.borda, poor.standing.borda) == (1.0, 2.0, 0.0)
    page = leaderboard_page(board, registry)
    assert 'data-first="up">imagenet-c</button><small>mce ↓</small><small>not in the mean</small>' in page


@pytest.mark.usefixtures("registry")
def test_any_table_can_show_it(run_cli: Cli) -> None:
    answer = run_cli("leaderboard", "--no-bundled", "--metric", "mce", "--format", "md")
    assert answer.code == 0
    assert "**60.00 ± 1.00**" in answer.out


def test_counts_of_items_follow_the_direction(run_cli: Cli) -> None:
    wrong = np.arange(10_000) < 6000
    for model, items in (("one", wrong), ("two", np.arange(10_000) < 4000)):
        content = record(model, "linear", "cifar10", float(items.mean()))
        content["metrics"] = {"error": content["metrics"]["top1"]}
        content["identity"]["task"]["headline"] = "error"
        content["curves"] = {}
        path = Path("results") / model / "linear" / "cifar10.json"
        path.parent.mkdir(parents=True)
        kept = write_items(path, {"error": Score(value=float(items.mean()), items=items)}, None)
        assert kept is not None
        rehash(content)
        write_sealed(path, {**content, "items": kept.model_dump()})
    files = [f"results/{model}/linear/cifar10.json" for model in ("one", "two")]
    answer = run_cli("compare", *files, "--json")
    (found,) = json.loads(answer.out)["comparisons"]
    assert (found["difference"], found["better"], found["worse"]) == (pytest.approx(-0.2), 2000, 0)
    text = run_cli("compare", *files).out
    assert "error ↓" in text
    assert " better " in text.splitlines()[2]


def test_a_suite_may_show_errors_where_there_are_some(registry: Registry) -> None:
    check_suite(registry.suite("two"), registry)
    check_suite(registry.suite("robust"), registry)
