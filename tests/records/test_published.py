"""Published values: the files are sound, and ours is held against them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from massl_bench import protocols
from massl_bench.core.errors import SpecError
from massl_bench.records.published import claims, ledger, of_claim
from massl_bench.records.record import read_record
from massl_bench.records.rows import collect
from massl_bench.specs.registry import Registry
from tests.report.made import record, write

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
        f'architecture = "vit"\nweights_sha256 = ["{values["sha256"]}"]\n'
        'values = [{ task = "knn", dataset = "digits", metric = "top1@20", value = 95.0, band = 0.5 }]\n'
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
