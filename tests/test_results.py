"""The record: its path, its schema, and what is refused when it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from massl_bench import results
from massl_bench.errors import RequestError
from massl_bench.leaderboard import collect, to_csv, to_markdown
from massl_bench.specs import Registry
from massl_bench.storage import file_safe
from massl_bench.types import Score
from tests.conftest import Answer

SCHEMA = Path(__file__).parents[1] / "docs" / "result.schema.json"


@pytest.fixture
def record_file(run_cli: Callable[..., Answer]) -> Path:
    assert run_cli("run", "--task", "knn", "--dataset", "digits", "--model", "pixels").code == 0
    return Path("results/pixels/knn/digits.json")


def edit(path: Path, change: Callable[[dict[str, Any]], object], to: Path | None = None) -> Path:
    content = json.loads(path.read_text())
    change(content)
    target = to or path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content))
    return target


def rehash(content: dict[str, Any]) -> None:
    content["identity_sha256"] = results.Identity.model_validate(content["identity"]).digest


def test_the_published_schema_is_current_and_describes_a_record(record_file: Path) -> None:
    published = json.loads(SCHEMA.read_text())
    assert published == results.json_schema(), "docs/result.schema.json: write results.json_schema() anew"
    record = json.loads(record_file.read_text())
    jsonschema.Draft202012Validator(published).validate(record)
    del record["metrics"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(published).validate(record)


def test_keys_are_sorted_and_the_file_reads_back(record_file: Path) -> None:
    text = record_file.read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    record = results.read_record(record_file)
    assert record.headline.ci95 is not None
    assert record.headline.ci95[0] < record.headline.value < record.headline.ci95[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("metrics"), "metrics: is missing"),
        (lambda r: r.update(note="x"), "note: is not a known key"),
        (lambda r: r.update(schema_version=7), "schema_version: expected 1, got 7"),
        (lambda r: r["metrics"]["top1@20"].update(value="0.9"), "metrics.top1@20.value: expected a valid number"),
        (lambda r: r["identity"]["task"].update(seed=4), "the record was changed by hand"),
        (lambda r: r["metrics"].pop("top1@20"), "the headline 'top1@20' is missing"),
    ],
)
def test_what_is_refused(record_file: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit(record_file, change)
    with pytest.raises(RequestError) as error:
        results.read_record(record_file)
    assert message in str(error.value)
    assert str(record_file) in str(error.value)


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(RequestError, match="not a result record"):
        results.read_record(tmp_path / "r.json")


def test_names_become_file_safe() -> None:
    assert file_safe("hf-hub:org/net v2") == "hf-hub_org_net_v2"
    assert file_safe("..") == "_.."
    assert file_safe("") == "_"
    long = file_safe("x" * 300)
    assert len(long) < 200
    assert long != file_safe("x" * 299 + "y")


def test_curves() -> None:
    metrics = {"top1@10": Score(value=0.5), "top1@20": Score(value=0.6), "nmi": Score(value=0.1)}
    assert results.curves(metrics) == {"top1": {"10": 0.5, "20": 0.6}}


def test_the_latest_record_of_each_weights_enters(record_file: Path, tmp_path: Path) -> None:
    def later(content: dict[str, Any]) -> None:
        content["created_at"] = "2999-01-01T00:00:00+00:00"
        content["identity"]["model"]["name"] = "renamed"
        content["metrics"]["top1@20"]["value"] = 0.5
        rehash(content)

    def other_weights(content: dict[str, Any]) -> None:
        content["identity"]["model"]["weights_sha256"] = "f" * 64
        rehash(content)

    edit(record_file, later, Path("results/renamed/knn/digits.json"))
    edit(record_file, other_weights, Path("results/other/knn/digits.json"))
    board = collect(Path("results"), Registry())
    assert sorted(row.record.identity.model.name for row in board.rows) == ["pixels", "renamed"]
    table = to_markdown(board)
    assert "50.00 ±" in table
    assert "**95.78 ± " in table


def test_what_stays_apart(record_file: Path) -> None:
    def stale(content: dict[str, Any]) -> None:
        content["identity"]["task"]["version"] = 0
        rehash(content)

    def other_numbers(content: dict[str, Any]) -> None:
        content["identity"]["task"]["spec_sha256"] = "0" * 64
        rehash(content)

    def partial(content: dict[str, Any]) -> None:
        content["complete"] = False

    def unknown_task(content: dict[str, Any]) -> None:
        content["identity"]["task"]["name"] = "knnn"
        rehash(content)

    for number, change in enumerate((stale, other_numbers, partial, unknown_task)):
        edit(record_file, change, Path(f"results/m{number}/knn/digits.json"))
    board = collect(Path("results"), Registry())
    assert len(board.rows) == 1
    reasons = " | ".join(reason for _, reason in board.apart)
    for part in ("stale: version 0 of knn, the current one is 1", "other numbers", "partial", "unknown task 'knnn'"):
        assert part in reasons
    assert len(to_csv(board).splitlines()) == 2


def test_no_mean_while_a_cell_is_missing(record_file: Path, tmp_path: Path) -> None:
    suites = tmp_path / "own" / "tasks" / "suites"
    suites.mkdir(parents=True)
    cells = '[{ task = "knn", dataset = "digits" }, { task = "knn", dataset = "cifar10" }]'
    (suites / "two.toml").write_text(f'name = "two"\nsummary = "s"\ncells = {cells}\n')
    registry = Registry([tmp_path / "own"])

    def as_cifar(content: dict[str, Any]) -> None:
        content["identity"]["dataset"]["name"] = "cifar10"
        content["metrics"]["top1@20"]["value"] = 0.5
        rehash(content)

    lines = to_markdown(collect(Path("results"), registry, "two")).splitlines()
    assert "– (1/2)" in lines[2]
    edit(record_file, as_cifar, Path("results/pixels/knn/cifar10.json"))
    lines = to_markdown(collect(Path("results"), registry, "two")).splitlines()
    assert "72.89 (2/2)" in lines[2]  # (431/450 + 0.5) / 2
