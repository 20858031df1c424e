"""Models against each other: what is compared, how, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from massl_bench.core.values import Resampled, Score
from massl_bench.records.items import write_items
from massl_bench.records.markdown import to_markdown
from massl_bench.records.record import Identity
from massl_bench.records.rows import collect
from massl_bench.report.page import leaderboard_page
from massl_bench.specs.registry import Registry
from tests.conftest import Answer
from tests.made_records import write_sealed
from tests.report.made import record

Cli = Callable[..., Answer]
LABELS = np.arange(10_000) % 10


def place(model: str, task: str, right: np.ndarray, **changes: Any) -> Path:
    """Writes a record with items: of k-NN or linear on CIFAR-10."""
    headline = {"knn": "top1@20", "linear": "top1"}[task]
    content = record(model, task, "cifar10", float(right.mean()), **changes)
    path = Path("results") / model / task / "cifar10.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    items = write_items(path, {headline: Score(value=float(right.mean()), items=right)}, LABELS[: len(right)])
    assert items is not None
    return write_sealed(path, {**content, "items": items.model_dump()})


def outcomes(better: int, worse: int) -> tuple[np.ndarray, np.ndarray]:
    """Two models, the second right on `better` items where the first is wrong, and the other way round on `worse`."""
    first, second = (np.arange(10_000) < 6000 for _ in range(2))
    first[:worse], second[:worse] = True, False
    first[6000 : 6000 + better], second[6000 : 6000 + better] = False, True
    return first, second


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    content["identity_sha256"] = Identity.model_validate(content["identity"]).digest
    write_sealed(path, content)


def test_the_table(run_cli: Cli) -> None:
    for task, counts in (("knn", (550, 450)), ("linear", (100, 95))):
        for model, right in zip(("one", "two"), outcomes(*counts), strict=True):
            place(model, task, right)
    answer = run_cli("compare", "one", "two")
    assert answer.code == 0
    knn, linear = (line.split() for line in answer.out.splitlines()[2:4])
    assert knn[:7] == ["knn", "cifar10", "top1@20", "two", "60.00", "61.00", "+1.00"]
    assert knn[-3:] == ["better", "McNemar,", "exact"]
    assert "550 : 450" in answer.out
    assert " ".join(linear[-5:-2]) == "not told apart"
    plain = json.loads(run_cli("compare", "one", "two", "--json").out)
    assert [one["different"] for one in plain["comparisons"]] == [True, False]
    assert plain["comparisons"][0]["p_value"] == pytest.approx(0.00173, abs=1e-4)
    written = run_cli("compare", "one", "two", "--json", "--out", "plain.json")
    assert (written.code, written.out) == (0, "")
    assert json.loads(Path("plain.json").read_text()) == plain
    page = run_cli("compare", "one", "two", "--format", "html", "--out", "page.html")
    assert page.code == 0
    assert "McNemar, exact" in Path("page.html").read_text()


def test_holm_over_the_cells(run_cli: Cli) -> None:
    """p = 0.03 alone is different; beside a second cell that is not, it is held against 0.025."""
    first, second = outcomes(540, 471)
    for model, right in (("one", first), ("two", second)):
        place(model, "knn", right)
    alone = json.loads(run_cli("compare", "one", "two", "--json").out)["comparisons"]
    assert 0.025 < alone[0]["p_value"] < 0.05
    assert alone[0]["different"]
    for model in ("one", "two"):
        place(model, "linear", first)
    both = json.loads(run_cli("compare", "one", "two", "--json").out)["comparisons"]
    assert [one["different"] for one in both] == [False, False]


def test_the_best_group_is_bold(run_cli: Cli) -> None:
    """The intervals of one and two overlap by far; on the items two is better."""
    first, second = outcomes(550, 450)
    for model, right in (("one", first), ("two", second), ("three", second)):
        place(model, "knn", right)
    board = collect(Path("results"), Registry())
    text = to_markdown(board)
    assert text.count("**") == 4  # two and three
    page = leaderboard_page(board, Registry())
    assert page.count("class=best") == 2 * page.count('<tbody class="ours">')
    assert "holds no outcomes" not in page
    for path in Path("results").glob("*/knn/*.safetensors"):
        path.unlink()
    assert to_markdown(collect(Path("results"), Registry())).count("**") == 6  # the intervals tell none apart
    assert "the intervals alone decide" in leaderboard_page(collect(Path("results"), Registry()), Registry())


def test_old_records_fall_back_on_their_intervals(run_cli: Cli) -> None:
    first, second = outcomes(900, 100)
    place("one", "knn", first)
    change(place("two", "knn", second), lambda content: content.update(items=None))
    answer = run_cli("compare", "one", "two")
    assert "intervals ¹" in answer.out
    assert "two/knn/cifar10.json: holds no outcomes of single items" in answer.out
    assert "better" in answer.out.splitlines()[2]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda c: c["identity"]["dataset"].update(fingerprint="e" * 64), "other data: the fingerprints are"),
        (lambda c: c["identity"]["dataset"].update(skipped={"test": ["x"]}), "left out as corrupt"),
        (lambda c: c["identity"]["dataset"].update(limit={"test": 5}), "the limits are none and {'test': 5}"),
        (lambda c: c["identity"]["task"].update(version=99), "against version 99"),
        (lambda c: c["identity"]["task"].update(seed=7), "seed 0 against seed 7"),
    ],
)
def test_what_is_refused(run_cli: Cli, edit: Callable[[dict[str, Any]], object], reason: str) -> None:
    first, second = outcomes(900, 100)
    one, two = place("one", "knn", first), place("two", "knn", second)
    change(two, edit)
    answer = run_cli("compare", one, two)
    assert answer.code == 0
    assert "not compared: knn cifar10, one and two: " in answer.out
    assert reason in answer.out


def test_features_that_were_handed_in_need_the_same_classes(run_cli: Cli) -> None:
    def handed(content: dict[str, Any]) -> None:
        content["identity"]["model"]["weights_hash_of"] = "features"
        content["identity"]["dataset"]["fingerprint"] = content["identity"]["model"]["weights_sha256"]

    first, second = outcomes(900, 100)
    one, two = place("one", "knn", first), place("two", "knn", second)
    for path in (one, two):
        change(path, handed)
    assert "McNemar" in run_cli("compare", "one", "two").out
    change(place("two", "knn", second[:9000]), handed)
    assert "not compared" not in run_cli("compare", "one", "two").out  # other numbers of items: the intervals
    content = json.loads(two.read_text())
    items = write_items(two, {"top1@20": Score(value=0.6, items=second)}, LABELS[::-1])
    assert items is not None
    write_sealed(two, {**content, "items": items.model_dump()})
    assert "the items' classes differ" in run_cli("compare", "one", "two").out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("one",), "expected two models or more"),
        (("one", "one"), "expected two models or more"),
        (("one", "twoo"), "did you mean two?"),
        (("one", "two", "--format", "pdf"), "unknown format 'pdf'"),
        (("one", "missing.json"), "missing.json: not a result record"),
        (("one", "two", "--task", "linear"), "unknown model 'one'"),
    ],
)
def test_wrong_requests(run_cli: Cli, arguments: tuple[str, ...], part: str) -> None:
    for model, right in zip(("one", "two"), outcomes(5, 5), strict=True):
        place(model, "knn", right)
    answer = run_cli("compare", *arguments)
    assert answer.code == 2
    assert part in answer.error


def test_two_weights_of_one_name_are_told_apart_as_tables_do(run_cli: Cli) -> None:
    first, second = outcomes(900, 100)
    one, two = place("one", "knn", first), place("two", "knn", second)
    change(two, lambda content: content["identity"]["model"].update(name="one"))
    hashes = [json.loads(path.read_text())["identity"]["model"]["weights_sha256"][:8] for path in (one, two)]
    names = [f"one ({digits})" for digits in hashes]
    refused = run_cli("compare", "one", names[1])
    assert refused.code == 2
    assert all(repr(name) in refused.error for name in names)
    assert "900 : 100" in run_cli("compare", *names).out


def test_records_that_are_not_taken_are_named(run_cli: Cli) -> None:
    for model, right in zip(("one", "two"), outcomes(900, 100), strict=True):
        for task in ("knn", "linear"):
            place(model, task, right)
    damaged = Path("results/two/linear/cifar10.json")
    damaged.write_text(damaged.read_text().replace("0.", "0.1", 1))
    for arguments in (("compare", "one", "two"), ("compare", "one", "two", "--json"), ("report", "one", "two")):
        answer = run_cli(*arguments)
        assert answer.code == 0, answer.err
        assert "not taken: two/linear/cifar10.json: unreadable: " in answer.err


def test_a_p_value_is_never_nothing(run_cli: Cli) -> None:
    for model, right in zip(("one", "two"), outcomes(4000, 0), strict=True):
        place(model, "knn", right)
    text = run_cli("compare", "one", "two").out
    assert "< 1e-300" in text
    assert json.loads(run_cli("compare", "one", "two", "--json").out)["comparisons"][0]["p_value"] < 1e-300


def test_items_that_are_damaged_are_named(run_cli: Cli, caplog: pytest.LogCaptureFixture) -> None:
    for model, right in zip(("one", "two"), outcomes(900, 100), strict=True):
        path = place(model, "knn", right)
    (file,) = path.parent.glob("*.items.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    answer = run_cli("report", "one", "two")
    assert answer.code == 0
    assert "other bytes than cifar10.json names: it was damaged or changed" in caplog.text


def test_a_metric_that_is_no_mean_over_items(run_cli: Cli) -> None:
    """A mean average precision, say: on the same resamples of the items, or by the intervals."""
    rng = np.random.default_rng(0)
    drawn_R = 0.5 + 0.02 * rng.standard_normal(1000)

    def resampled(model: str, value: float, values: np.ndarray, key: str) -> None:
        content = record(model, "linear", "cifar10", value, half=0.04)
        path = Path("results") / model / "linear" / "cifar10.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        score = Score(value=value, resampled=Resampled(values=values, key=key))
        items = write_items(path, {"top1": score}, np.zeros((300, 5), dtype=np.int8))
        assert items is not None
        assert items.num_items == 300
        write_sealed(path, {**content, "items": items.model_dump()})

    resampled("one", 0.50, drawn_R, "a")
    resampled("two", 0.51, drawn_R + 0.01 + 0.002 * rng.standard_normal(1000), "a")
    found = json.loads(run_cli("compare", "one", "two", "--json").out)["comparisons"][0]
    assert (found["test"], found["better"], found["different"]) == ("paired bootstrap", None, True)
    assert found["difference"] == pytest.approx(0.01)
    assert found["ci95"] == pytest.approx([0.01 - 1.96 * 0.002, 0.01 + 1.96 * 0.002], abs=4e-4)
    assert "**51.00 ± 4.00** |" in run_cli("leaderboard", "--model", "one,two").out  # alone in its group
    resampled("two", 0.51, drawn_R + 0.01, "b")
    answer = run_cli("compare", "one", "two")
    assert "other resamples of the items" in answer.out
    assert " intervals ¹" in answer.out


def test_a_table_names_a_few_damaged_files_and_no_metric_without_items(
    run_cli: Cli, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(9):
        path = place(f"m{number}", "knn", outcomes(900, 100)[0])
        (file,) = path.parent.glob("*.items.safetensors")
        file.unlink()
        without = place(f"m{number}", "linear", outcomes(900, 100)[0])
        change(without, lambda content: content["identity"]["task"].update(headline="mean_per_class"))
    assert run_cli("leaderboard", "--format", "html", "--out", "board.html").code == 0
    assert len(caplog.messages) == 6
    assert all(text.startswith(f"results/m{number}/knn/") for number, text in enumerate(caplog.messages[:5]))
    assert caplog.messages[5].startswith("the items of further records cannot be read either")


def test_what_has_no_better_end_is_higher_or_lower(run_cli: Cli) -> None:
    for model, value in (("one", 0.4), ("two", 0.2)):
        path = Path("results") / model / "spectrum" / "cifar10.json"
        write_sealed(path, record(model, "spectrum", "cifar10", value))
    assert [one["different"] for one in json.loads(run_cli("compare", "one", "two", "--json").out)["comparisons"]] == [
        True
    ]
    assert " lower " in run_cli("compare", "one", "two").out
