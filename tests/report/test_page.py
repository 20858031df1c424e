"""The page of a leaderboard: what stands in it, and that nothing of a name becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from massl_bench.core.values import Score
from massl_bench.records.items import write_items
from massl_bench.records.record import Identity
from massl_bench.records.rows import collect
from massl_bench.report.page import leaderboard_page
from massl_bench.specs.registry import Registry
from tests.conftest import Answer
from tests.made_records import edit
from tests.records.test_tables import suite_of_two
from tests.report.made import HOSTILE, many, record, write


class Parsed(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page(results: Path, registry: Registry | None = None, suite: str | None = None) -> str:
    registry = registry or Registry()
    return leaderboard_page(collect(results, registry, suite), registry, href="")


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    content: dict[str, Any] = json.loads(found[1])
    return content


def records_of(text: str) -> list[dict[str, Any]]:
    """The records of a page, by the names of their fields."""
    found = data_of(text)
    named = [dict(zip(found["fields"], values, strict=True)) for values in found["records"]]
    shared = ("model", "task", "data", "machine")
    return [{**entry, **{name: found["shared"][entry[name]] for name in shared}} for entry in named]


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    cells = [("knn", "cifar10"), ("linear", "cifar10"), ("spectrum", "cifar10")]
    one = many(tmp_path / "one", ["a", "b", "c"], cells)
    other = tmp_path / "elsewhere" / "two"
    shutil.copytree(one, other)
    assert page(one) == page(other)


@pytest.mark.slow
def test_the_same_bytes_on_any_machine(tmp_path: Path) -> None:
    """Another place, hash seed, locale, time zone, order of files on the disk and number of threads."""
    names = ["a", "ä", "<b>", "שלום"]
    cells = [("knn", "cifar10"), ("linear", "cifar10"), ("few-shot", "cifar10"), ("spectrum", "cifar10")]
    one = many(tmp_path / "one" / "results", names, cells)
    for number, file in enumerate(sorted(one.glob("*/knn/*.json"))):  # with what each item got
        labels = np.repeat(np.arange(10), 20)
        right = np.random.default_rng(number).random(200) < 0.7
        items = write_items(file, {"top1@20": Score(value=float(right.mean()), items=right)}, labels)
        assert items is not None
        edit(file, partial(dict.update, items=items.model_dump()))
    other = tmp_path / "another place" / "results"
    for file in sorted((path for path in one.rglob("*") if path.is_file()), reverse=True):
        (other / file.relative_to(one)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, other / file.relative_to(one))
    machines = [
        (one, {"PYTHONHASHSEED": "1", "LC_ALL": "C", "TZ": "UTC", "OMP_NUM_THREADS": "1"}),
        (other, {"PYTHONHASHSEED": "2", "LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo", "OMP_NUM_THREADS": "2"}),
    ]
    program = (
        "import hashlib, json\nfrom pathlib import Path\nfrom massl_bench.records.rows import collect\n"
        "from massl_bench.report.formats import FORMATS, Setting\nfrom massl_bench.specs.registry import Registry\n"
        "board = collect(Path('results'), Registry())\nassert len(board.rows) > 15\n"
        "texts = {name: write(board, Setting(registry=Registry())) for name, write in FORMATS.items()}\n"
        "print(json.dumps({name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}))"
    )
    written = []
    for results, variables in machines:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2]), **variables}
        command = [sys.executable, "-c", program]
        written.append(
            subprocess.run(command, cwd=results.parent, env=environment, check=True, capture_output=True).stdout
        )
    assert len(json.loads(written[0])) == 6
    assert written[0] == written[1]


def test_a_suite(tmp_path: Path) -> None:
    """Two columns; c lacks one. a and b overlap in the first, and a is better in the second."""
    registry = suite_of_two(tmp_path, ("knn", "cifar10"), ("linear", "cifar10"))
    values = {"a": (0.70, 0.80), "b": (0.69, 0.60)}
    records = [record(model, "knn", "cifar10", pair[0]) for model, pair in values.items()]
    records += [record(model, "linear", "cifar10", pair[1]) for model, pair in values.items()]
    write(Path("results"), [*records, record("c", "knn", "cifar10", 0.5)])
    text = page(Path("results"), registry, "two")
    body = Parsed(text).text
    assert "75.00 1.00 1.5 place 1 (1–1)" in body
    assert "64.50 1.50 0.5 place 2 (1–2)" in body
    assert "no mean: 1/2 – – 50.00 49.00–51.00 3." in body
    best = re.findall(r"class=best>([\d.]+)<", text)
    assert sorted(best) == ["69.00", "70.00", "80.00"]
    pairs = data_of(text)["tables"][0]["columns"][0]
    assert pairs["order"] == [0, 1, 2]
    assert base64.b64decode(pairs["bits"])[0] >> 5 == 0b011  # a-b undecided, a-c and b-c different
    assert pairs["paired"] is False


def test_a_cell_opens_all_that_its_record_says(tmp_path: Path) -> None:
    write(Path("results"), [record("my model", "knn", "cifar10", 0.7)])
    (entry,) = records_of(page(Path("results")))
    assert entry["metrics"][entry["task"]["metrics"].index("top1@20")] == [70_000, 69_000, 71_000]
    assert entry["task"]["parameters"]["temperature"] == 0.07
    assert entry["machine"]["torch"]
    assert entry["command"] == "massl-bench run --task knn --dataset cifar10 --model 'my model'"
    assert entry["path"] == "m000/knn/cifar10.json"


def test_the_command_says_all_that_was_asked(tmp_path: Path) -> None:
    asked = {
        "splits": {"train": "train", "test": "val"}, "config": "large", "split_share": 0.2, "sample": {"test": 50},
        "sample_seed": 3, "max_pixels": 1000,
    }  # fmt: skip
    content = record("m", "knn", "folder:pets", 0.7, request=asked)
    content["identity"]["precision"] = "bf16"
    agreement = {"num_images": 1000, "min_cosine": 0.999, "equal_neighbours": 0.95}
    content["precision_agreement"] = dict.fromkeys(content["identity"]["feature_keys"], agreement)
    content["identity_sha256"] = Identity.model_validate(content["identity"]).digest
    write(Path("results"), [content])
    (entry,) = records_of(page(Path("results")))
    assert entry["command"] == (
        "massl-bench run --task knn --dataset folder:pets --model m --split test=val,train=train --config large "
        "--split-share 0.2 --sample test=50,seed=3 --max-pixels 1000 --precision bf16"
    )


def test_what_does_not_enter_is_listed_with_its_reason(tmp_path: Path) -> None:
    part = record("p", "knn", "cifar10", 0.5, complete=False)
    departing = record("d", "knn", "cifar10", 0.5, departures=["--set knn.k=20"])
    write(Path("results"), [part, departing, record("a", "knn", "cifar10", 0.7)])
    body = Parsed(page(Path("results"))).text
    assert "Partial (1) m000/knn/cifar10.json : partial" in body
    assert "Departing from their task (1) m001/knn/cifar10.json : departs from its task: --set knn.k=20" in body


def test_published_values_stand_apart_with_their_source(tmp_path: Path) -> None:
    write(Path("results"), [record("timm:vit_small_patch16_224.dino", "knn", "imagenet-1k", 0.60)])
    text = page(Path("results"))
    published = text[text.index('<tbody class="published">') :]
    published = published[: published.index("</tbody>")]
    assert "facebookresearch/dino, README.md, read 2026-" in published
    assert ">74.5</a>" in published
    assert "class=best" not in published
    assert "set-up likely wrong" in Parsed(text).text


def test_copies_of_the_data_are_not_ranked(tmp_path: Path) -> None:
    other = record("b", "knn", "cifar10", 0.5)
    other["identity"]["dataset"]["fingerprint"] = "e" * 64
    other["identity_sha256"] = Identity.model_validate(other["identity"]).digest
    write(Path("results"), [record("a", "knn", "cifar10", 0.7), other])
    text = page(Path("results"))
    assert "class=best" not in text
    assert "eeeeeeee ( b )" in Parsed(text).text


def test_names_stay_text(tmp_path: Path) -> None:
    cells = [("knn", "cifar10"), ("linear", "cifar10")]
    text = page(many(Path("results"), HOSTILE, cells))
    plain = Parsed(page(many(tmp_path / "tame", [f"m{number}" for number in range(len(HOSTILE))], cells)))
    parsed = Parsed(text)
    assert [tag for tag, _ in parsed.tags] == [tag for tag, _ in plain.tags]
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    for character in ("\x1b", "\u202e", "\r"):
        assert character not in text
    found = records_of(text)
    names = {entry["model"]["name"] for entry in found}
    assert "<img src=x onerror=alert(1)>" in names
    assert r"\x1b[31mred\x1b[0m\nsecond line" in names
    commands = {entry["model"]["name"]: entry["command"] for entry in found}
    assert commands[r"\x1b[31mred\x1b[0m\nsecond line"] is None
    assert commands["'; rm -rf ~; echo '"].endswith("""--model ''"'"'; rm -rf ~; echo '"'"''""")


def test_the_policy_allows_the_pages_own_script_alone(tmp_path: Path) -> None:
    text = page(many(Path("results"), ["a"], [("knn", "cifar10")]))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    style = re.findall(r"<style>(.*?)</style>", text, re.S)
    for part in (*scripts, *style):
        assert base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() in policy[1].replace("&#43;", "+")
    assert len(scripts) == len(style) == 1
    assert "default-src 'none'" in policy[1].replace("&#39;", "'")
    assert not re.search(r'(src|href)="(https?:)?//', text)


def test_the_command(run_cli: Any) -> None:
    write(Path("results"), [record("a", "knn", "cifar10", 0.7)])
    command = ("leaderboard", "--format", "html", "--out", "site/board.html")
    answer: Answer = run_cli(*command)
    assert answer.code == 0
    assert data_of(Path("site/board.html").read_text())["href"] == "../results/"
    assert run_cli(*command, "--check").code == 0
    write(Path("results"), [record("a", "knn", "cifar10", 0.6)])
    assert "is stale" in run_cli(*command, "--check").error


def test_no_record_yet(tmp_path: Path) -> None:
    assert "No complete record" in page(tmp_path)
