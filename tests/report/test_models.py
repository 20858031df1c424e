"""The page of a few models."""

from __future__ import annotations

import base64
import builtins
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from massl_bench.core.errors import RequestError
from massl_bench.core.galleries import FeatureMap, Gallery, Look, Neighbour, Query, Thumbnail
from massl_bench.core.values import Score
from massl_bench.records.items import write_items
from massl_bench.records.rows import collect
from massl_bench.report.models import models_page
from massl_bench.specs.registry import Registry
from tests.conftest import Answer
from tests.made_records import edit
from tests.records.test_comparison import outcomes, place
from tests.report.made import HOSTILE, many, record, write

Cli = Callable[..., Answer]
CELLS = [("knn", "cifar10"), ("linear", "cifar10"), ("few-shot", "cifar10"), ("kmeans", "cifar10")]


def page(results: Path, names: list[str], logs: dict[str, Path] | None = None) -> str:
    rows = collect(results, Registry()).rows
    return models_page({n: [r for r in rows if r.record.identity.model.name == n] for n in names}, logs or {})


def pictures(text: str) -> dict[str, str]:
    """The charts of a page, as SVG, by what stands below them; charts of one name are put together."""
    found = re.findall(r'svg\+xml;base64,([^"]+)" alt="[^"]*"><figcaption>([^<]*)<', text)
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


def test_confusions_strengths_and_times(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(3), 4)
    predicted = np.array([0, 0, 0, 1, 1, 1, 1, 1, 2, 0, 0, -1])
    contents = {}
    for number, name in enumerate(("a", "b"), 1):
        content = record(name, "linear", "cifar10", 0.7, selection_curve={"0.1": 0.5, "1": 0.6, "10": 0.55})
        content["num_extracted"] = sum(content["num_items"].values())
        content["timings"]["extract"] = 60.0 * number
        contents[name] = content
    results = write(tmp_path, list(contents.values()))
    for file in results.glob("*/linear/*.json"):
        score = Score(value=7 / 12, items=predicted == labels, predicted=predicted)
        items = write_items(file, {"top1": score}, labels, ["cat", "dog", "ship"])
        assert items is not None
        edit(file, partial(dict.update, items=items.model_dump()))
    found = pictures(page(results, ["a", "b"]))
    assert ">milliseconds an image<" in found["linear cifar10"]
    assert ">% of what was held out<" in found["linear cifar10"]
    matrix = found["linear cifar10, a"]
    shown = [int(text) for text in re.findall(r">(\d+)</text>", matrix)]
    assert sorted(shown) == [0, 0, 0, 0, 25, 33, 67, 75, 100]  # the item that was given no class is left out
    assert ">ship<" in matrix
    for file in results.glob("*/linear/*.json"):  # the time is that of other features, too
        edit(file, partial(dict.update, extracted_along=["layers"]))
    assert ">milliseconds an image<" not in page(results, ["a", "b"])


def test_looks_and_their_names() -> None:
    image = Thumbnail(jpeg=b"\xff\xd8", label=HOSTILE[0])
    near = [Neighbour(image=image, right=right, similarity=0.5) for right in (True, False, None)]
    gallery = Gallery(title="Failures", text="1 of 3", queries=[Query(image=image, note=HOSTILE[6], neighbours=near)])
    found = FeatureMap(text="t-SNE", points=[(0.0, 1.0)], classes=[0], class_names=[HOSTILE[0]], images=[image])
    look = Look(
        dataset="d", galleries=[gallery], map=found, spectrum=[0.9, 0.1], attention=[(image, image)],
        missing={"map of x": HOSTILE[5]},
    )  # fmt: skip
    write(Path("results"), [record("a", "knn", "cifar10", 0.7)])
    rows = collect(Path("results"), Registry()).rows
    text = models_page({"a": rows}, {}, {"a": [look]}, {"a": gallery})
    assert re.findall(r'<figure class="(right|wrong|uncounted)">', text) == ["right", "wrong", "uncounted"] * 2
    assert "11 small images" in text  # twice 1 + 3, the map's, a pair
    assert '<circle class="c0" cx="10.0" cy="10.0" r="4"/>' in text
    assert ">share of the variance<" in pictures(text)["d"]
    assert "<img src=x" not in text
    assert "<script>alert" not in text
    assert "\x1b" not in text
