"""The examples of the pages on records and on published values, run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from massl_bench.records.published import claims
from massl_bench.specs.registry import Registry

DOCS = Path(__file__).parents[2] / "docs"


def examples(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_reading_a_record_and_its_items(record_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert record_file.is_file()
    read, items = examples("record.md", "python")
    capfd.readouterr()
    exec(read, {})
    value, low, high = map(float, re.findall(r"[\d.]+", capfd.readouterr().out))
    assert low < value < high
    assert value == pytest.approx(431 / 450)
    exec(items, {})
    assert float(capfd.readouterr().out.split()[0]) == pytest.approx(value)


def test_published_values_of_ones_own(tmp_path: Path) -> None:
    folder = tmp_path / "tasks" / "published"
    folder.mkdir(parents=True)
    (text,) = examples("published.md", "toml")
    (folder / "mine.toml").write_text(text)
    (mine,) = [claim for claim in claims(Registry([tmp_path])) if claim.source.name == "mine"]
    assert (mine.value.task, mine.value.dataset, mine.value.value) == ("knn", "imagenet-1k", 74.5)
    assert mine.row.models == ("timm:vit_small_patch16_224.dino",)
