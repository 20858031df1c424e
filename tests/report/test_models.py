"""The page of a few models."""

from __future__ import annotations

import base64
import builtins
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from massl_bench.core.errors import RequestError
from massl_bench.records.rows import collect
from massl_bench.report.models import models_page
from massl_bench.specs.registry import Registry
from tests.conftest import Answer
from tests.records.test_comparison import outcomes, place
from tests.report.made import HOSTILE, many, record, write

Cli = Callable[..., Answer]
CELLS = [("knn", "cifar10"), ("linear", "cifar10"), ("few-shot", "cifar10"), ("kmeans", "cifar10")]


def page(results: Path, names: list[str], logs: dict[str, Path] | None = None) -> str:
    rows = collect(results, Registry()).rows
    return models_page({n: [r for r in rows if r.record.identity.model.name == n] for n in names}, logs or {})


def pictures(text: str) -> dict[str, str]:
    """The charts of a page, as SVG, by what stands below them; charts of one name are put together."""
    found = re.findall(r'base64,([^"]+)" alt="[^"]*"><figcaption>([^<]*)<', text)
    svgs: dict[str, str] = {}
    for encoded, title in found:
        svgs[title] = svgs.get(title, "") + base64.b64decode(encoded).decode()
    return svgs


def test_what_it_shows() -> None:
    many(Path("results"), ["a", "b"], CELLS)
    text = page(Path("results"), ["a", "b"])
    assert page(Path("results"), ["a", "b"]) == text
    found = pictures(text)
    assert set(found) == {"Every cell", *(" ".join(cell) for cell in CELLS)}
    assert ">images a class<" in found["few-shot cifar10"]
    assert ">k<" in found["knn cifar10"]
    assert ">million parameters<" in found["kmeans cifar10"]
    assert "dc:date" not in "".join(found.values())
    # A model has one colour in every chart, and every chart names its models.
    for name, colour in (("a", "#1b9e9e"), ("b", "#d9782d")):
        assert all(f">{name}<" in svg and colour in svg for svg in found.values())
    assert re.search(r'alt="a: 10: \d\d\.\d\d, 20: ', text)  # the numbers in words


def test_classes_and_pretraining(tmp_path: Path) -> None:
    for model, right in zip(("one", "two"), outcomes(900, 100), strict=True):
        place(model, "knn", right)
    log = tmp_path / "one.log.jsonl"
    lines = [{"step": step, "loss": 7 - step / 10, "lr": 0.1, "knn": 0.5} for step in range(20)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 20, "lo')
    found = pictures(page(Path("results"), ["one", "two"], {"one": log}))
    assert {"loss", "learning rate", "online k-NN, held-out training images"} <= set(found)
    assert ">9<" in found["knn cifar10"]  # a class
    log.write_text("nonsense\n{}\n")
    with pytest.raises(RequestError, match="line 1: not JSON"):
        page(Path("results"), ["one"], {"one": log})


def test_hostile_names() -> None:
    many(Path("results"), HOSTILE, CELLS[:3])
    text = page(Path("results"), list(HOSTILE))
    drawn = "".join(pictures(text).values())
    for shown in (text, drawn):
        assert "<img src=x" not in shown
        assert "<script>alert" not in shown
        assert "\x1b" not in shown
    assert "&lt;img src=x" in drawn


def test_the_command(run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path("results"), [record("a", "knn", "cifar10", 0.7)])
    assert run_cli("report", "a").code == 0
    assert "<h2>Over k, and over the images a class</h2>" in Path("report.html").read_text()
    assert "unknown model 'zz'" in run_cli("report", "zz").error
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    answer = run_cli("report", "a", "--out", "other.html")
    assert answer.code == 2
    assert "pip install 'massl-bench[report]'" in answer.error
    assert not Path("other.html").exists()
