"""Many linear layers at once, against as many trainings of one, and the choice among them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from massl_bench import protocols
from massl_bench.core.errors import CellError, RequestError, SpecError
from massl_bench.core.values import EvaluationData, Part
from massl_bench.protocols import linear_augmented, linear_grid
from massl_bench.protocols.shared.augmented import token_representations
from massl_bench.protocols.shared.selection import hold_out
from massl_bench.specs.registry import Registry
from massl_bench.specs.suite import SuiteSpec
from tests.protocols.banks import bank, params_of
from tests.protocols.test_linear_augmented import FixedViews, data_of, gaussian_classes

RATES = params_of(linear_grid, "linear-grid").lr


def grid(task: str = "linear-grid", **changes: Any) -> Any:
    params = params_of(linear_grid, task)
    return params.model_copy(update={"epochs": 5, "batch_size": 64, "crop_interpolation": "bilinear", **changes})


def one(lr: Any, **changes: Any) -> Any:
    params = params_of(linear_augmented, "linear-augmented")
    return params.model_copy(update={"epochs": 5, "batch_size": 64, "lr": lr, **changes})


def test_the_published_grid_is_thirteen_trainings_of_one_layer() -> None:
    features, labels = gaussian_classes(600, noise=2.5)
    data = data_of(features, labels, 400)
    lr = tuple(100 * rate for rate in RATES)
    scores = linear_grid.run(data, grid("linear-grid-published", lr=lr, cosine="epoch"), np.random.default_rng(3))
    alone = {rate: linear_augmented.run(data, one(rate), np.random.default_rng(3))["top1"] for rate in lr}
    assert scores.selection == {rate: score.value for rate, score in alone.items()}
    assert len(set(scores.selection.values())) > 4
    best = max(alone, key=lambda rate: alone[rate].value)
    assert scores["top1"].value == alone[best].value == max(scores.selection.values())
    assert (scores["top1"].items == alone[scores["top1"].details["lr"]].items).all()
    assert scores["top1"].details["selection_split"] == "test"
    assert "chosen on the test images" in scores.notes[0]
    assert len({str(plan.rows) + str(plan.seed) for plan in data.views.plans}) == 1


@pytest.mark.parametrize("which", ["linear_grid", "linear_augmented"])
def test_the_choice_is_made_on_training_images_that_no_layer_saw(which: str) -> None:
    features, labels = gaussian_classes(800, noise=2.5)
    data = data_of(features, labels, 500)
    lr = tuple(100 * rate for rate in RATES)
    module: Any = {"linear_grid": linear_grid, "linear_augmented": linear_augmented}[which]
    params = grid(lr=lr, cosine="epoch") if which == "linear_grid" else one(lr)
    scores = module.run(data, params, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    rng.integers(2**62, size=2)  # the seeds
    held = hold_out(labels[:500], 0.1, rng)
    assert np.bincount(labels[held]).tolist() == [12, 12, 13, 13] or len(held) == 50
    rest = np.setdiff1d(np.arange(500), held)
    assert (np.sort(data.views.plans[0].rows) == rest).all()
    # One layer after the other, on the same rows, with the held-out items in the place of the test split.
    for rate in lr:
        views = _OnRows(features[:500], labels[:500], rest)
        alone = EvaluationData(banks={"test": bank(features[held], labels[held])}, num_classes=4, views=views)
        found = linear_augmented.run(alone, one(rate), np.random.default_rng(3))["top1"].value
        assert scores.selection[rate] == found
    chosen = scores["top1"].details["lr"]
    assert scores.selection[chosen] == max(scores.selection.values()) == scores["top1"].details["selection_value"]
    tested = EvaluationData(banks=data.banks, num_classes=4, views=_OnRows(features[:500], labels[:500], rest))
    final = linear_augmented.run(tested, one(chosen), np.random.default_rng(3))["top1"]
    assert scores["top1"].value == final.value
    assert (scores["top1"].items == final.items).all()
    assert scores["top1"].details["selection_split"] == "50 of 500 train, of each class at random"
    low, high = scores["top1"].ci95
    assert low < scores["top1"].value < high


class _OnRows(FixedViews):
    """A training split of which only some rows are seen, whatever the plan asks for."""

    def __init__(self, features: Any, labels: Any, rows: Any) -> None:
        super().__init__(features, labels)
        self.only = rows

    def epochs(self, plan: Any) -> Any:
        return super().epochs(replace(plan, rows=self.only))


def test_the_test_images_change_no_choice() -> None:
    features, labels = gaussian_classes(600, noise=2.5)
    params = grid(lr=tuple(100 * rate for rate in RATES))
    before = linear_grid.run(data_of(features, labels, 500), params, np.random.default_rng(3))
    features[500:] = -features[500:]
    after = linear_grid.run(data_of(features, labels, 500), params, np.random.default_rng(3))
    assert before.selection == after.selection
    assert before["top1"].details == after["top1"].details
    assert before["top1"].value > after["top1"].value


def test_publishers_validation_images_are_chosen_on() -> None:
    features, labels = gaussian_classes(600, noise=2.5)
    params = grid(lr=(0.01, 0.1, 1.0))
    data = data_of(features, labels, 400)
    views: Any = data.views
    views.validation_from = 350
    scores = linear_grid.run(data, params, np.random.default_rng(3))
    assert scores["top1"].details["selection_split"] == "val, the last 50 of 400 train"
    assert data.views.plans[0].rows.tolist() == list(range(350))
    data = data_of(features, labels, 400)
    with_val = replace(data, banks={**data.banks, "val": bank(features[350:400], labels[350:400])})
    scores = linear_grid.run(with_val, params, np.random.default_rng(3))
    assert scores["top1"].details["selection_split"] == "val"
    assert len(data.views.plans[0].rows) == 400


def test_a_layer_that_diverges_does_not_disturb_the_others() -> None:
    features, labels = gaussian_classes(400, noise=2.5)
    data = data_of(1e15 * features, labels, 300)
    with np.errstate(all="ignore"):
        scores = linear_grid.run(data, grid(lr=(1e-30, 1e30)), np.random.default_rng(3))
        alone = linear_grid.run(data, grid(lr=(1e-30,)), np.random.default_rng(3))
    assert list(scores.selection) == [1e-30]
    assert scores["top1"].value == alone["top1"].value
    assert "the loss was not finite, and the layer not chosen from, at learning rates 1e+30 (own)" in scores.notes
    with pytest.raises(CellError, match=r"not finite in epoch 1 of 5, at a learning rate of .*lower it with lr="):
        linear_grid.run(data, grid(lr=(1e29, 1e30)), np.random.default_rng(3))


def test_a_last_step_that_diverges_is_no_success() -> None:
    """Scores that are no numbers put no class before another: the item would count as right."""
    features, labels = gaussian_classes(400, noise=2.5)
    data = data_of(1e20 * features, labels, 300)
    once: dict[str, Any] = {"epochs": 1, "batch_size": 300, "validation_share": 0.1}
    scores = linear_grid.run(data, grid(lr=(1e-30, 1e36), **once), np.random.default_rng(3))
    assert list(scores.selection) == [1e-30]
    assert "at learning rates 1e+36 (own)" in scores.notes[0]
    with pytest.raises(CellError, match="its scores are not finite, at a learning rate of"):
        linear_augmented.run(data, one(1e36, epochs=1, batch_size=300), np.random.default_rng(3))


def test_representations_are_trained_as_if_alone() -> None:
    features, labels = gaussian_classes(600, dims=20, noise=2.5)
    parts = tuple(Part(name, 4) for name in ("b1", "b2", "b3", "b4", "mean patch"))
    data = data_of(features, labels, 400)
    data = replace(data, banks={"test": replace(data.banks["test"], parts=parts)})
    params = grid(lr=(0.01, 0.1, 1.0))
    scores = linear_grid.run(data, params, np.random.default_rng(3))
    columns = {"last 1": [*range(12, 16)], "last 1 and mean patch": [*range(12, 20)], "last 4": [*range(16)],
               "last 4 and mean patch": [*range(20)]}  # fmt: skip
    best = {}
    for name, chosen in columns.items():
        alone = linear_grid.run(data_of(features[:, chosen], labels, 400), params, np.random.default_rng(3))
        best[name] = alone["top1"].details["selection_value"]
        text = scores["top1"].details[f"{name}, there"]
        assert text == f"{100 * best[name]:.2f} at {alone['top1'].details['lr']:g}" or text.startswith(
            f"{100 * best[name]:.2f}"
        )
        if name == scores["top1"].details["representation"]:
            assert scores.selection == alone.selection
            assert scores["top1"].value == alone["top1"].value
    assert scores["top1"].details["selection_value"] == max(best.values())
    assert len(set(best.values())) > 1


def test_representations_of_fewer_blocks() -> None:
    three = token_representations([Part("b1", 2), Part("b2", 2), Part("b3", 2), Part("mean patch", 2)], (1, 4))
    assert [each.name for each in three] == [
        "last 1", "last 1 and mean patch", "last 3", "last 3 and mean patch"
    ]  # fmt: skip
    row = np.arange(8.0, dtype=np.float32)[None]
    assert [each.of(row)[0].tolist() for each in three] == [[4, 5], [4, 5, 6, 7], [*range(6)], [*range(8)]]
    single = token_representations([Part("b1", 3), Part("mean patch", 3)], (1, 4))
    assert [each.name for each in single] == ["last 1", "last 1 and mean patch"]
    assert [each.name for each in token_representations((), (1, 4))] == ["own"]


def test_no_suite_may_choose_on_the_test_images() -> None:
    registry = Registry()
    for name in registry.suites:
        assert all(cell.task != "linear-grid-published" for cell in registry.suite(name).cells)
    suite = SuiteSpec.model_validate(
        {"name": "quick", "summary": "x", "cells": [{"task": "linear-grid-published", "dataset": "cifar10"}]}
    )
    with pytest.raises(SpecError, match="linear-grid-published chooses on the test images, and is for no table"):
        protocols.check_suite(suite, registry)


def test_what_it_refuses() -> None:
    params = params_of(linear_grid, "linear-grid")
    with pytest.raises(RequestError, match=r"leaves nothing to select on; at least 10 are needed"):
        linear_grid.check_sizes(params, {"train": 9, "test": 5})
    linear_grid.check_sizes(params, {"train": 9, "test": 5, "val": 5})
    spec = Registry().task("linear-grid")
    for wrong in ([0.1, 0.1], [0.0, 0.1], [], [-1.0]):
        with pytest.raises(SpecError, match="lr"):
            protocols.parameters(spec.with_params({"lr": wrong}), "here")
    assert protocols.parameters(spec.with_params({"lr": 0.5}), "here").lr == (0.5,)


def test_the_cosine_falls_at_every_step_as_torchs() -> None:
    import torch

    params = params_of(linear_grid, "linear-grid").model_copy(update={"epochs": 3})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3 * 5, eta_min=0)
    for step in range(15):
        assert 0.4 * params.factor(step // 5, step % 5 / 5) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        scheduler.step()
