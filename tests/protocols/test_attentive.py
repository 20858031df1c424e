"""One query of attention over patch tokens; the probe itself is tested against torch's attention in tests/learners."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from massl_bench.core.errors import RequestError
from massl_bench.core.values import EvaluationData
from massl_bench.learners.attentive_head import AttentiveHeads
from massl_bench.learners.linear_head import HeadTraining
from massl_bench.protocols import attentive
from massl_bench.protocols.shared.selection import hold_out
from tests.conftest import Answer
from tests.protocols.banks import bank, params_of
from tests.protocols.test_linear_augmented import FixedViews

Cli = Callable[..., Answer]
CLASSES, TOKENS, DIM = 3, 6, 8


def tokens(count: int, seed: int) -> tuple[Any, Any]:
    """One token of an image shows its class, and is marked; the others show any class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    shown = rng.integers(CLASSES, size=(count, TOKENS))
    marked = rng.integers(TOKENS, size=count)
    shown[np.arange(count), marked] = labels
    features = 1.2 * rng.standard_normal((count, TOKENS, DIM))
    features += 3 * np.eye(DIM)[shown]
    features[np.arange(count), marked, DIM - 1] += 4
    return features.astype(np.float32), labels


def data_of(train: tuple[Any, Any], test: tuple[Any, Any], **banks: Any) -> EvaluationData:
    views, stream = FixedViews(*train), FixedViews(*test)
    return EvaluationData(banks=banks, num_classes=CLASSES, views=views, streams={"test": stream})


def params(**changes: Any) -> Any:
    values = {"epochs": 8, "batch_size": 32, "num_heads": 1, "lr": (0.01, 1.0, 4.0), **changes}
    return params_of(attentive, "attentive").model_copy(update=values)


def test_the_query_finds_the_token_that_shows_the_class() -> None:
    train, test = tokens(300, 0), tokens(150, 1)
    scores = attentive.run(data_of(train, test), params(), np.random.default_rng(0))
    assert scores["top1"].value > 0.85
    # Its mean over the tokens says much less: with a query that never moves, the probe is a linear layer on the mean.
    means = data_of((train[0].mean(axis=1, keepdims=True), train[1]), (test[0].mean(axis=1, keepdims=True), test[1]))
    assert attentive.run(means, params(), np.random.default_rng(0))["top1"].value < 0.75
    details = scores["top1"].details
    assert details["parameters"] == DIM + CLASSES * DIM + CLASSES
    assert details["representation"] == "patch tokens"
    assert details["selection_split"] == "30 of 300 train, of each class at random"
    assert scores.selection[details["lr"]] == max(scores.selection.values()) == details["selection_value"]
    assert scores["top1"].items.mean() == scores["top1"].value
    low, high = scores["top1"].ci95
    assert low < scores["top1"].value < high


def test_it_is_the_training_of_that_probe_on_what_is_not_held_out() -> None:
    train, test = tokens(120, 0), tokens(60, 1)
    data, chosen = data_of(train, test), params(lr=(0.5,), epochs=3)
    scores = attentive.run(data, chosen, np.random.default_rng(4))
    rng = np.random.default_rng(4)
    view_seed, head_seed = (int(seed) for seed in rng.integers(2**62, size=2))
    held = hold_out(train[1], 0.1, rng)
    plan = data.views.plans[0]
    assert plan.seed == view_seed
    assert np.array_equal(np.sort(plan.rows), np.setdiff1d(np.arange(120), held))
    training = HeadTraining(
        rates=[0.5 * 32 / 256],
        momentum=0.9,
        weight_decay=0.0,
        lars_trust=None,
        init_std=0.01,
        seed=head_seed,
        device="cpu",
    )
    heads = AttentiveHeads(DIM, 1, CLASSES, training)
    steps = -(-len(plan.rows) // 32)
    for epoch, batches in enumerate(FixedViews(*train).epochs(plan)):
        for number, batch in enumerate(batches):
            factor = 0.5 * (1 + np.cos(np.pi * (epoch * steps + number) / (3 * steps)))
            heads.step(batch.features, train[1][batch.rows], factor)
    assert scores["top1"].value == (heads.scores(test[0]).argmax(axis=1) == test[1]).mean()
    assert scores.selection[0.5] == (heads.scores(train[0][held]).argmax(axis=1) == train[1][held]).mean()


def test_channels_are_divided_among_the_heads() -> None:
    with pytest.raises(RequestError, match="num_heads = 3 divide the channels of the tokens among them, which are 8"):
        attentive.run(data_of(tokens(60, 0), tokens(30, 1)), params(num_heads=3), np.random.default_rng(0))


def test_a_validation_bank_is_chosen_on() -> None:
    val = tokens(40, 2)
    data = data_of(tokens(90, 0), tokens(30, 1), val=bank(*val))
    scores = attentive.run(data, params(), np.random.default_rng(0))
    assert scores["top1"].details["selection_split"] == "val"
    assert len(data.views.plans[0].rows) == 90


def test_from_the_command_line(run_cli: Cli, golden: Path, image_folder: Path) -> None:
    cell = ("--dataset", f"folder:{image_folder}", "--model", str(golden / "official_format_checkpoint.pth"))
    small = ("--img-size", "32", "--set", "attentive.epochs=2", "--set", "attentive.batch_size=4",
             "--set", "attentive.validation_share=0.4", "--set", "attentive.num_heads=2")  # fmt: skip
    plan = run_cli("run", "--task", "attentive", *cell, *small, "--dry-run")
    assert "not kept" in plan.out
    answer = run_cli("run", "--task", "attentive", *cell, *small)
    assert answer.code == 0, answer.err
    (path,) = Path("results").rglob("attentive/*.json")
    record = json.loads(path.read_text())
    assert record["identity"]["model"]["pooling"] == "patch tokens after the final norm"
    assert len(record["selection_curve"]) > 1
    assert record["items"]["num_items"] == record["num_items"]["test"]
    assert not list(Path(os.environ["MASSL_BENCH_CACHE"]).glob("features/*/*/meta.json"))  # no tokens are kept
    first = record["metrics"]
    assert run_cli("run", "--task", "attentive", *cell, *small, "--force", "--batch-size", "3").code == 0
    assert json.loads(path.read_text())["metrics"] == first


def test_networks_without_patch_tokens_are_refused_by_name(run_cli: Cli) -> None:
    answer = run_cli("run", "--task", "attentive", "--dataset", "digits", "--model", "massl-small-cifar10")
    assert answer.code == 2
    assert "model massl-small-cifar10" in answer.error
    assert "has no patch tokens after one norm; ViTs have" in answer.error
