"""A table of results that change while it is made: it shows one state, and says nothing of what has gone."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from massl_bench.core.values import Score
from massl_bench.records import outcomes
from massl_bench.records.items import remove_other_items, write_items
from massl_bench.records.outcomes import SupersededError, of_one_state
from massl_bench.records.record import ResultRecord, write_record
from tests.conftest import Answer
from tests.report.made import record

Cli = Callable[..., Answer]
MODELS = ["m0", "m1", "m2", "m3"]
LABELS = np.repeat(np.arange(10), 20)


def measure(name: str, seed: int) -> float:
    """Writes a record with its items, as a run does; returns its value."""
    right = np.random.default_rng(seed).random(200) < 0.3 + 0.1 * (seed % 4)
    value = float(right.mean())
    path = Path("results") / name / "knn" / "cifar10.json"
    items = write_items(path, {"top1@20": Score(value=value, items=right)}, LABELS)
    found = ResultRecord.model_validate(record(name, "knn", "cifar10", value))
    write_record(path, found.model_copy(update={"items": items}))
    remove_other_items(path, items)
    return value


def leaderboard(run_cli: Cli) -> str:
    answer = run_cli("leaderboard", "--no-bundled")
    assert (answer.code, answer.err) == (0, "")
    assert all(name in answer.out for name in MODELS)
    return answer.out


@pytest.mark.parametrize("change", [lambda: measure("m1", 9), lambda: shutil.rmtree("results/m1")])
def test_items_that_have_gone_are_those_of_an_earlier_state(
    change: Callable[[], Any], run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(MODELS[:2]):
        measure(name, seed)
    read, calls = outcomes.read_items, itertools.count()

    def changed_before(*arguments: Any) -> Any:
        if next(calls) == 0:
            change()
        return read(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(outcomes, "read_items", changed_before)
        answer = run_cli("leaderboard", "--no-bundled")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == run_cli("leaderboard", "--no-bundled").out


def test_tables_while_records_are_measured_again(run_cli: Cli) -> None:
    for seed, name in enumerate(MODELS):
        measure(name, seed)
    ended = threading.Event()

    def again() -> None:
        for seed in itertools.count(4):
            measure(MODELS[seed % 4], seed)
            if ended.wait(0.002):
                return

    writer = threading.Thread(target=again)
    writer.start()
    try:
        tables = {leaderboard(run_cli) for _ in range(12)}
    finally:
        ended.set()
        writer.join()
    assert len(tables) > 1
    assert leaderboard(run_cli) == leaderboard(run_cli)


def test_results_that_change_every_time() -> None:
    def never() -> None:
        raise SupersededError("x.json: changed while it was read; call it again")

    with pytest.raises(SupersededError, match="call it again"):
        of_one_state(never)
