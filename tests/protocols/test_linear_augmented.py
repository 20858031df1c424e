"""The layers that are trained on augmented views, against plain loops of torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from massl_bench.core.errors import CellError, RequestError, SpecError
from massl_bench.core.values import EvaluationData, ViewBatch
from massl_bench.learners.linear_head import HeadTraining, LinearHeads
from massl_bench.protocols import linear_augmented, low_shot_augmented, parameters
from massl_bench.protocols.shared.draws import draw_up_to
from massl_bench.protocols.shared.rate_grid import effective
from massl_bench.specs.registry import Registry
from tests.protocols.banks import bank, params_of


class FixedViews:
    """Views that never change: what an augmentation that does nothing gives, in a seeded order."""

    def __init__(self, features: NDArray[Any], labels: NDArray[Any]) -> None:
        self.features, self.labels, self.class_names = features.astype(np.float32), labels, None
        self.validation_from: int | None = None
        self.plans: list[Any] = []

    def epochs(self, plan: Any) -> Iterator[Any]:
        self.plans.append(plan)
        for epoch in range(plan.num_epochs):
            order = np.random.default_rng([plan.seed, epoch]).permutation(plan.rows)
            starts = range(0, len(order), plan.batch_size)
            batches = [order[start : start + plan.batch_size] for start in starts]
            yield (ViewBatch(features=self.features[rows], rows=rows) for rows in batches)

    def plain(self, rows: Any) -> Iterator[Any]:
        for start in range(0, len(rows), 7):
            piece = rows[start : start + 7]
            yield ViewBatch(features=self.features[piece], rows=piece)


def gaussian_classes(
    count: int = 300, dims: int = 10, classes: int = 4, noise: float = 1.0
) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((classes, dims))
    labels = np.arange(count) % classes
    return (centres[labels] + noise * rng.standard_normal((count, dims))).astype(np.float32), labels


def data_of(features: NDArray[Any], labels: NDArray[Any], num_train: int, num_classes: int = 4) -> EvaluationData:
    views = FixedViews(features[:num_train], labels[:num_train])
    test = bank(features[num_train:], labels[num_train:])
    return EvaluationData(banks={"test": test}, num_classes=num_classes, views=views)


def changed(task: str, protocol: Any, **changes: Any) -> Any:
    return params_of(protocol, task).model_copy(update=changes)


def plain_loop(data: EvaluationData, layer: nn.Module, optimizer: Any, scheduler: Any, num_epochs: int) -> Any:
    """What the published scripts do, on the batches of the last plan; returns the test logits of every epoch."""
    plan = data.views.plans[-1]
    features, labels = torch.from_numpy(data.views.features), torch.from_numpy(data.views.labels)
    logits = []
    for batches in FixedViews(data.views.features, data.views.labels).epochs(plan):
        for batch in batches:
            rows = torch.from_numpy(batch.rows)
            optimizer.zero_grad()
            nn.CrossEntropyLoss()(layer(features[rows]), labels[rows]).backward()
            optimizer.step()
        scheduler.step()
        logits.append(layer(torch.from_numpy(data.banks["test"].features)).detach().numpy())
    assert len(logits) == num_epochs
    return logits


def initial_layer(dims: int, num_classes: int, seed: int, std: float) -> nn.Linear:
    layer = nn.Linear(dims, num_classes)
    with torch.no_grad():
        layer.weight.normal_(std=std, generator=torch.Generator().manual_seed(seed))
        layer.bias.zero_()
    return layer


def test_without_augmentation_it_is_a_plain_loop_of_torch() -> None:
    features, labels = gaussian_classes(noise=2.0)
    data = data_of(features, labels, 200)
    params = changed("linear-augmented", linear_augmented, epochs=7, batch_size=48, lr=0.05)
    scores = linear_augmented.run(data, params, np.random.default_rng(3))
    head_seed = int(np.random.default_rng(3).integers(2**62, size=2)[1])
    layer = initial_layer(10, 4, head_seed, 0.01)
    optimizer = torch.optim.SGD(layer.parameters(), 0.05 * 48 / 256, momentum=0.9, weight_decay=0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7, eta_min=0)
    top1 = [(each.argmax(1) == labels[200:]).mean() for each in plain_loop(data, layer, optimizer, scheduler, 7)]
    assert scores["top1"].value == pytest.approx(top1[-1])
    assert scores["top1"].details["best_epoch_top1"] == pytest.approx(max(top1))
    assert scores["top1"].details["best_epoch"] == 1 + int(np.argmax(top1))
    assert scores["top1"].details["effective_lr"] == pytest.approx(0.05 * 48 / 256)
    assert len(set(top1)) > 2  # the epochs differ, so that their order is tested
    low, high = scores["top1"].ci95
    assert low < scores["top1"].value < high


class PublishedLARS:
    """One step by hand: v = m·v + g · trust · |w| / |g| for matrices, g as it is for biases; w = w − lr·v."""

    def __init__(self, parameters: Any, lr: float) -> None:
        self.parameters, self.param_groups = list(parameters), [{"lr": lr}]
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters]

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for parameter, velocity in zip(self.parameters, self.velocities, strict=True):
            update = parameter.grad
            if parameter.ndim > 1:
                update = update * 0.001 * parameter.norm() / update.norm()
            velocity.mul_(0.9).add_(update)
            parameter.sub_(self.param_groups[0]["lr"] * velocity)


class Cosine:
    def __init__(self, optimizer: Any, lr: float, num_epochs: int) -> None:
        self.optimizer, self.lr, self.num_epochs, self.epoch = optimizer, lr, num_epochs, 0

    def step(self) -> None:
        self.epoch += 1
        self.optimizer.param_groups[0]["lr"] = self.lr * (1 + np.cos(np.pi * self.epoch / self.num_epochs)) / 2


def test_lars_is_the_published_step_and_its_rate_is_not_scaled() -> None:
    features, labels = gaussian_classes()
    data = data_of(features, labels, 200)
    params = changed("linear-augmented-carp", linear_augmented, epochs=5, batch_size=64)
    scores = linear_augmented.run(data, params, np.random.default_rng(3))
    assert scores["top1"].details["effective_lr"] == 1.0
    plan_seed, head_seed = (int(seed) for seed in np.random.default_rng(3).integers(2**62, size=2))
    assert data.views.plans[-1].seed == plan_seed
    layer = initial_layer(10, 4, head_seed, 0.01)
    optimizer = PublishedLARS(layer.parameters(), 1.0)
    logits = plain_loop(data, layer, optimizer, Cosine(optimizer, 1.0, 5), 5)
    training = HeadTraining(
        rates=[1.0],
        momentum=0.9,
        weight_decay=0.0,
        lars_trust=0.001,
        init_std=0.01,
        seed=head_seed,
        device="cpu",
    )
    head = LinearHeads(10, 4, training)
    for epoch, batches in enumerate(data.views.epochs(data.views.plans[-1])):
        for batch in batches:
            head.step(batch.features, labels[batch.rows], params.factor(epoch, 0.5))
        np.testing.assert_allclose(head.scores(data.banks["test"].features), logits[epoch], rtol=1e-4, atol=1e-6)
    assert scores["top1"].value == pytest.approx((logits[-1].argmax(1) == labels[200:]).mean())


def test_learning_rates_are_those_of_torchs_schedulers() -> None:
    layer = nn.Linear(1, 1)
    published = params_of(linear_augmented, "linear-augmented")
    assert effective(published.rates, published, published.lr_reference_batch) == [0.004]
    carp = params_of(linear_augmented, "linear-augmented-carp")
    assert effective(carp.rates, carp, carp.lr_reference_batch) == [1.0]
    optimizer = torch.optim.SGD(layer.parameters(), 0.004)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100, eta_min=0)
    for epoch in range(100):
        assert 0.004 * published.factor(epoch, 0.7) == pytest.approx(cosine.get_last_lr()[0], rel=1e-9, abs=1e-12)
        optimizer.step()
        cosine.step()
    low_shot = params_of(low_shot_augmented, "low-shot-inat")
    optimizer = torch.optim.SGD(layer.parameters(), 0.3)
    steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[12, 18], gamma=0.1)
    for epoch in range(20):
        assert low_shot.lr * low_shot.factor(epoch, 0.7) == pytest.approx(steps.get_last_lr()[0])
        optimizer.step()
        steps.step()


def test_low_shot_is_a_plain_loop_on_the_drawn_items() -> None:
    features, labels = gaussian_classes(noise=1.5)
    data = data_of(features, labels, 200)
    params = changed(
        "low-shot-inat", low_shot_augmented, shots=(3,), num_draws=1, epochs=6, milestones=(3, 5), batch_size=5
    )
    scores = low_shot_augmented.run(data, params, np.random.default_rng(1))
    plan = data.views.plans[-1]
    assert np.bincount(labels[plan.rows]).tolist() == [3, 3, 3, 3]
    rng = np.random.default_rng(1)
    assert (draw_up_to(labels[:200], 3, rng) == plan.rows).all()
    layer = initial_layer(10, 4, int(rng.integers(2**62, size=2)[1]), 0.01)
    optimizer = torch.optim.SGD(layer.parameters(), 0.3, momentum=0.9, weight_decay=1e-6)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[3, 5], gamma=0.1)
    logits = plain_loop(data, layer, optimizer, scheduler, 6)[-1]
    assert scores["top1@s3"].per_seed == (pytest.approx((logits.argmax(1) == labels[200:]).mean()),)
    assert set(scores) == {"top1@s3", "mean_per_class@s3"}


def test_low_shot_draws_every_time_anew_and_reports_each() -> None:
    features, labels = gaussian_classes(noise=2.0)
    data = data_of(features, labels, 200)
    params = changed(
        "low-shot-inat", low_shot_augmented, shots=(1, 4), num_draws=3, epochs=2, milestones=(1,), batch_size=8
    )
    scores = low_shot_augmented.run(data, params, np.random.default_rng(0))
    drawn = [tuple(plan.rows) for plan in data.views.plans]
    assert len(drawn) == len(set(drawn)) == 6
    assert len({plan.seed for plan in data.views.plans}) == 6
    score = scores["top1@s4"]
    assert len(score.per_seed) == 3
    assert score.value == pytest.approx(np.mean(score.per_seed))
    assert score.std == pytest.approx(np.std(score.per_seed))
    assert score.details["images"] == 16
    assert low_shot_augmented.run(data, params, np.random.default_rng(0)) == scores


def test_a_class_of_fewer_images_gives_all_of_them() -> None:
    labels = np.repeat([0, 1, 2], [7, 2, 1])
    rows = draw_up_to(labels, 4, np.random.default_rng(0))
    assert np.bincount(labels[rows]).tolist() == [4, 2, 1]
    assert len(set(rows)) == 7


def test_a_rate_that_is_too_high_is_stopped_before_the_step() -> None:
    features, labels = gaussian_classes()
    data = data_of(features * 1e20, labels, 200)
    params = changed("linear-augmented", linear_augmented, epochs=2, lr=1e30)
    with pytest.raises(CellError, match="the linear classifier diverges: its scores are not finite"):
        linear_augmented.run(data, params, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("task", "protocol"), [("linear-augmented", linear_augmented), ("low-shot-inat", low_shot_augmented)]
)
def test_bad_input(task: str, protocol: Any, rng: np.random.Generator) -> None:
    features, labels = gaussian_classes()
    params = params_of(protocol, task)
    with pytest.raises(RequestError, match="trains on augmented views of the images, and was given features"):
        protocol.run(EvaluationData(banks={"test": bank(features, labels)}, num_classes=4), params, rng)
    with pytest.raises(CellError, match=r"1 of 5 classes have no training image \(class 4\)"):
        protocol.run(data_of(features, labels, 200, num_classes=5), params, rng)
    data = data_of(features, labels, 200)
    data.views.labels = np.ones((200, 4), dtype=np.int8)  # type: ignore[misc]
    with pytest.raises(RequestError, match="needs one label an image"):
        protocol.run(data, params, rng)


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("linear-augmented", {"crop_scale": [0.0, 1.0]}, "crop_scale: expected 0 < low <= high and low <= 1"),
        ("linear-augmented", {"crop_ratio": [2.0, 1.0]}, "crop_ratio: expected 0 < low <= high"),
        ("linear-augmented", {"lars_trust": "off"}, "lars_trust"),
        ("low-shot-inat", {"epochs": 10}, "milestones: 18 is never reached in 10 epochs"),
    ],
)
def test_parameters_are_checked(task: str, changes: Any, message: str) -> None:
    spec = Registry().task(task)
    with pytest.raises(SpecError, match=message):
        parameters(spec.model_copy(update={"params": {**spec.params, **changes}}), "here")
