"""Every benchmark runs at its small size, and its results are kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import gpu, measure, scaling
from benchmarks.__main__ import _section, keep, page, table
from benchmarks.measure import Bar, Comparison, Times
from massl_bench.specs.registry import Registry

ROOT = Path(__file__).parents[1]


def benchmarks(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_what_there_is() -> None:
    listed = [line.split()[0] for line in benchmarks().stdout.splitlines()]
    assert {"knn", "linear", "retrieval", "massl_objective", "carp_objective", "training_step"} <= set(listed)
    assert {"views", "extraction", "suite", "few_shot_svm", "startup", "growth", "host_rates", "gpu"} <= set(listed)


def test_the_page_on_scale_is_what_the_model_gives() -> None:
    """After a change of a rate or of a dataset's size: python -m benchmarks scaling > docs/scaling.md."""
    assert (ROOT / "docs" / "scaling.md").read_text() == scaling.page()


def test_the_model_of_scale() -> None:
    """By hand: one dataset's share, and what each resource does to the hours."""
    registry, (rates, _) = Registry(), scaling.Rates.read()
    parts = {part.dataset: part for part in scaling.work(registry)}
    assert len(parts) == 17
    assert parts["stl10"].images == 13_000
    assert parts["stl10"].products == 5_000 * 8_000 * 384
    assert parts["stl10"].fitted == 5_000 * 384 * 10
    assert (parts["voc2007"].products, parts["roxford5k"].fitted) == (0, 0)
    eight, more = (scaling.simulate(cards, rates, registry) for cards in (8, 64))
    weighted = sum(part.images * part.weight for part in parts.values())
    assert eight.hours["network"] == pytest.approx(50 * weighted / rates.network / 8 / 3600)
    assert more.hours["network"] == pytest.approx(eight.hours["network"] / 8)
    assert more.hours["reading"] == eight.hours["reading"] > more.hours["network"]
    assert more.bottleneck == "reading"
    faster = scaling.simulate(64, replace(rates, file_system=rates.file_system * 100), registry)
    assert faster.bottleneck != "reading"
    assert faster.total < more.total
    assert scaling.simulate(8, replace(rates, price=2 * rates.price), registry).dollars == 2 * eight.dollars


@pytest.mark.slow
def test_one_that_is_not_there() -> None:
    done = benchmarks("knm")
    assert done.returncode == 2
    assert "no benchmark 'knm'; there are carp_objective, extraction, few_shot_svm," in done.stderr


@pytest.mark.slow
def test_one_runs_and_becomes_a_page(tmp_path: Path) -> None:
    done = benchmarks("knn", "few_shot_svm", "linear", "--quick", "--json", tmp_path / "x.json")
    assert done.returncode == 0, done.stderr
    assert "largest difference of top-1 from the published loop: 0.00 points" in done.stdout
    record = json.loads((tmp_path / "x.json").read_text())
    (knn,) = record["benchmarks"]["knn"]
    assert knn["ratios"]["published loop"] > 0
    assert record["machine"]["threads"] >= 1
    shown = benchmarks("page", tmp_path / "x.json").stdout
    assert "| `knn`: 2,000 × 384, 500 queries, k = 10, 20, 100, 200 " in shown


def test_the_page_is_that_of_the_records() -> None:
    """`python -m benchmarks page benchmarks/records/*.json > docs/performance.md` after a record was added."""
    files = sorted((ROOT / "benchmarks" / "records").glob("*.json"))
    assert (ROOT / "docs" / "performance.md").read_text(encoding="utf-8") == page(files)


def test_a_missed_bar_is_shown() -> None:
    times = {"ours": Times(seconds=(2.0, 2.2, 2.1)), "theirs": Times(seconds=(1.0, 1.0, 1.0))}
    judged_by_numpy: Any = np.True_
    checks = (("y: 3", judged_by_numpy),)
    compared = Comparison(what="x", times=times, bars=(Bar(call="theirs", ratio=1.5),), checks=checks)
    assert compared.judged() == [("at most 1.5 × the time of theirs: 2.10", False), ("y: 3", True)]
    shown = "\n".join(_section("name", json.loads(json.dumps(compared.as_json()))))
    assert "- **missed**: at most 1.5 × the time of theirs: 2.10" in shown
    assert "| theirs " in shown
    assert "- kept: y: 3" in shown
    assert "MISSED  at most 1.5" in table([compared], quick=False)
    assert "MISSED" not in table([compared], quick=True)


def test_what_a_card_will_be_asked_runs_on_a_cpu() -> None:
    """The small sizes of `python -m benchmarks gpu`, whose times nobody judges here."""
    found = list(gpu.run(quick=True, device="cpu"))
    assert [each.what.split(",")[0].split(" of ")[0] for each in found] == [
        *("objective", "k-NN", "views", "whole step", "whole step", "whole step", "k-NN", "linear", "whole step")
    ]
    assert [kept for words, kept in found[0].judged() if words.startswith("gradient")] == [True]
    assert json.loads(json.dumps([each.as_json() for each in found]))  # a card's minutes are not to end in an error


@pytest.mark.slow
def test_a_part_on_a_card_takes_nothing_else_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts run in processes of their own: one brings its times, one that fails says why, one that hangs is ended."""
    found = gpu._in_a_process("objective", True, "cpu", 120)
    assert found.times["ours"].median > 0
    failed = gpu._in_a_process("no such part", True, "cpu", 120)
    assert failed.judged() == [("no such part runs: KeyError: 'no such part'", False)]
    monkeypatch.setattr(gpu, "_START", 0.0)
    assert gpu._in_a_process("objective", False, "cpu", 0.5).judged() == [
        ("objective runs: it was ended after 0 s", False)
    ]
    monkeypatch.setattr(gpu, "_START", 1.0)
    assert gpu._in_a_process("objective", False, "cpu", 0.5).judged() == [
        ("objective runs: no time was left for it", False)
    ]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card, and it would be asked for ten minutes")
def test_the_script_says_at_once_what_is_missing(tmp_path: Path) -> None:
    script = ["bash", str(ROOT / "benchmarks" / "on_a_card.sh"), str(tmp_path / "out")]
    done = subprocess.run(script, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 2
    assert "on_a_card: " in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_record_grows_on_one_day_and_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Comparison(what="x", times={"ours": Times(seconds=(1.0,))})
    for name in ("a", "b"):
        keep(tmp_path / "x.json", name, [one], quick=False)
    assert set(json.loads((tmp_path / "x.json").read_text())["benchmarks"]) == {"a", "b"}
    monkeypatch.setattr(measure, "CLOCK", measure.cpu_seconds)
    keep(tmp_path / "x.json", "c", [one], quick=False)
    record = json.loads((tmp_path / "x.json").read_text())
    assert set(record["benchmarks"]) == {"c"}
    assert "in CPU seconds, as the machine did other work too" in page([tmp_path / "x.json"])
    assert "in CPU seconds" not in page([])


def test_fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MOST_ROUNDS", 2)
    calls: list[int] = []
    assert len(measure.take_turns({"ours": lambda: calls.append(1)}, 5)["ours"].seconds) == 2
    assert len(calls) == 3  # the first one warms up
