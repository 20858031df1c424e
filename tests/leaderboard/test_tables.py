"""Records to tables: which ones enter, and what is said of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from massl_bench.leaderboard import collect, to_csv, to_markdown
from massl_bench.specs import Registry
from tests.records import edit, rehash


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


def test_records_of_other_data_are_named_and_nothing_is_bold(record_file: Path) -> None:
    def other_weights(content: dict[str, Any]) -> None:
        content["identity"]["model"].update(name="other", weights_sha256="f" * 64)
        content["metrics"]["top1@20"]["value"] = 0.5
        rehash(content)

    def other_data(content: dict[str, Any]) -> None:
        content["identity"]["dataset"]["fingerprint"] = "e" * 64
        rehash(content)

    other = edit(record_file, other_weights, Path("results/other/knn/digits.json"))
    table = to_markdown(collect(Path("results"), Registry()))
    assert "**95.78" in table
    assert "copies" not in table
    edit(other, other_data)
    table = to_markdown(collect(Path("results"), Registry()))
    assert "**" not in table
    assert "different copies of the data" in table
    assert "- knn digits: eeeeeeee (other); " in table
    assert table.rstrip().endswith("(pixels)")


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
