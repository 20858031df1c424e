"""Published values: the files are sound, and ours is held against them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from massl_bench import protocols
from massl_bench.core.errors import SpecError
from massl_bench.records.published import claims, ledger, of_claim
from massl_bench.records.reading import read_record
from massl_bench.records.rows import collect
from massl_bench.specs.registry import Registry
from tests.conftest import Answer
from tests.report.made import record, write

Cli = Callable[..., Answer]
DINO = "timm:vit_small_patch16_224.dino"


def test_every_published_value_is_of_a_metric_that_its_task_measures() -> None:
    registry = Registry()
    known = claims(registry)
    assert len(known) > 30
    for claim in known:
        value = claim.value
        kind = registry.dataset(value.dataset).kind
        assert value.metric in protocols.metrics_of(registry.task(value.task), kind, "tests"), value
        assert 0 < value.value < 100


@pytest.mark.parametrize(
    ("ours", "verdict"), [(0.745, "reproduced"), (0.726, "reproduced"), (0.72, "beside"), (0.60, "far"), (0.80, "far")]
)
def test_verdicts(ours: float, verdict: str, tmp_path: Path) -> None:
    """Published: 74.5, a band of 1. The interval is ours ± 1, so that 72.6 reaches 73.6, within the band."""
    write(Path("results"), [record(DINO, "knn", "imagenet-1k", ours)])
    lines = [line for line in ledger(claims(Registry()), collect(Path("results"), Registry()).rows) if line.record]
    (line,) = lines
    assert line.verdict == verdict
    assert line.gap == pytest.approx(100 * ours - 74.5)
    assert ("pooling" in line.sentence()) == (verdict == "far")
    assert "published 74.5 (facebookresearch/dino, README.md, read 2026-" in line.sentence()


def test_other_weights_cells_and_metrics_are_no_reproduction() -> None:
    write(Path("results"), [record(DINO, "knn", "cifar10", 0.7), record("mine", "knn", "imagenet-1k", 0.7)])
    assert not [line for line in ledger(claims(Registry()), collect(Path("results"), Registry()).rows) if line.record]


def own_file(root: Path, **changes: Any) -> Registry:
    folder = root / "own" / "tasks" / "published"
    folder.mkdir(parents=True)
    values = {"read": "2026-01-02", "sha256": "ab" * 32, **changes}
    (folder / "mine.toml").write_text(
        f'name = "mine"\nsource = "a paper, table 3"\nread = "{values["read"]}"\n\n[[rows]]\nmethod = "Mine"\n'
        f'architecture = "vit"\nmodels = ["pixels"]\nweights_sha256 = ["{values["sha256"]}"]\n'
        'values = [{ task = "knn", dataset = "digits", metric = "top1@20", band = 0.5, '
        f"value = {values.get('value', 95.0)} }}]\n"
    )
    return Registry([root / "own"])


def test_anyone_can_add_a_file(tmp_path: Path, record_file: Path) -> None:
    found = read_record(record_file)
    registry = own_file(tmp_path, sha256=found.identity.model.weights_sha256)
    (claim,) = [claim for claim in claims(registry) if claim.source.name == "mine"]
    assert of_claim(claim, [found]) == [found]


def test_a_day_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"mine\.toml: read: expected a day"):
        claims(own_file(tmp_path, read="yesterday"))


def test_the_ledger(run_cli: Cli, tmp_path: Path) -> None:
    write(Path("results"), [record(DINO, "knn", "imagenet-1k", 0.60), record("|=x", "knn", "imagenet-1k", 0.6)])
    text = run_cli("leaderboard", "--published").out
    first = next(line for line in text.splitlines() if line.startswith("| timm:vit"))
    for part in (
        "74.5",
        "60.00 [59.00, 61.00]",
        "-14.50",
        "**set-up likely wrong**",
        "facebookresearch/dino, README.md",
    ):
        assert part in first
    assert "Not measured here:" in text
    rows = json.loads(run_cli("leaderboard", "--published", "--json").out)
    assert [row["verdict"] for row in rows if row["ours"] is not None] == ["far"]
    assert len(rows) == len(claims(Registry()))
    assert len(run_cli("leaderboard", "--published", "--format", "csv").out.splitlines()) == len(rows) + 1
    epochs = next(row["epochs"] for row in rows if row["epochs"] is not None)
    assert f",{epochs}," in run_cli("leaderboard", "--published", "--format", "csv").out
    of_carp = json.loads(run_cli("leaderboard", "--published", "--json", "--suite", "carp").out)
    assert {(row["task"], row["dataset"]) for row in of_carp} <= set(Registry().suite("carp").pairs)
    assert run_cli("leaderboard", "--published", "--format", "latex").code == 2


@pytest.mark.parametrize(("value", "far"), [(95.0, False), (80.0, True)])
def test_verify_and_info_say_where_a_set_up_is_wrong(
    run_cli: Cli, tmp_path: Path, record_file: Path, value: float, far: bool
) -> None:
    own_file(tmp_path, value=value)
    own = tmp_path / "own"
    for command in (("verify", record_file), ("info", "pixels")):
        answer = run_cli(*command, "--include-path", own)
        assert answer.code == 0
        assert (
            f"top1@20: published {value} (a paper, table 3, read 2026-01-02), ours 95.78 [93.78, 97.56]" in answer.out
        )
        assert ("the set-up is likely wrong" in answer.out) == far
        assert ("label" in answer.out.splitlines()[-1]) == far
    assert json.loads(run_cli("info", "pixels", "--include-path", own, "--json").out)["published"][0]["ours"] == 95.7778
