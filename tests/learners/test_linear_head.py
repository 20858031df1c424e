"""A linear layer that is trained by gradient steps, against torch's own layer, loss and optimizers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from massl_bench.core.errors import CellError
from massl_bench.core.values import ViewBatch
from massl_bench.learners.lars import LARS
from massl_bench.learners.linear_head import HeadTraining, LinearHead

RNG = np.random.default_rng(2)
FEATURES = RNG.standard_normal((60, 7)).astype(np.float32)
LABELS = RNG.integers(0, 4, 60)


def training(**changes: object) -> HeadTraining:
    values = {"lrs": (0.5, 0.2, 0.1), "momentum": 0.9, "weight_decay": 1e-3, "lars_trust": None, "init_std": 0.01}
    return HeadTraining(**{**values, "seed": 1, "device": "cpu", **changes})  # type: ignore[arg-type]


def batches(epochs: int) -> Iterator[list[ViewBatch]]:
    """Each epoch in an order of its own, 16 at a time."""
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(60)
        parts = [order[start : start + 16] for start in range(0, 60, 16)]
        yield [ViewBatch(rows=rows, features=FEATURES[rows]) for rows in parts]


@pytest.mark.parametrize("lars_trust", [None, 0.02])
def test_it_is_torchs_own_layer_under_the_same_steps(lars_trust: float | None) -> None:
    head = LinearHead(7, 4, training(lars_trust=lars_trust))
    layer = nn.Linear(7, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.empty(4, 7).normal_(std=0.01, generator=torch.Generator().manual_seed(1)))
        layer.bias.zero_()
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-3)
        if lars_trust is None
        else LARS(layer.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-3, eta=lars_trust)
    )
    np.testing.assert_allclose(head.scores(FEATURES), layer(torch.from_numpy(FEATURES)).detach(), rtol=1e-5)
    done = list(head.train(batches(3), LABELS))
    for lr, epoch in zip((0.5, 0.2, 0.1), batches(3), strict=True):
        optimizer.param_groups[0]["lr"] = lr
        for batch in epoch:
            optimizer.zero_grad()
            targets = torch.from_numpy(LABELS[batch.rows])
            functional.cross_entropy(layer(torch.from_numpy(batch.features)), targets).backward()
            optimizer.step()
    assert done == [0, 1, 2]
    found = head.scores(FEATURES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, layer(torch.from_numpy(FEATURES)).detach(), rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_not_finite_stops_before_the_step() -> None:
    head = LinearHead(7, 4, training(lrs=(1.0,)))
    before = head.scores(FEATURES)
    broken = FEATURES[:4].copy()
    broken[1, 2] = np.inf
    with pytest.raises(CellError, match="in epoch 1 of 1 at a learning rate of 1: lower it"):
        list(head.train([[ViewBatch(rows=np.arange(4), features=broken)]], LABELS))
    assert np.array_equal(head.scores(FEATURES), before)


def test_as_many_epochs_as_learning_rates() -> None:
    with pytest.raises(ValueError, match="shorter"):
        list(LinearHead(7, 4, training()).train(batches(2), LABELS))


def test_rows_are_classified_alike_however_many_there_are() -> None:
    head = LinearHead(7, 4, training())
    many = np.tile(FEATURES, (100, 1))
    np.testing.assert_allclose(head.scores(many), np.tile(head.scores(FEATURES), (100, 1)), atol=1e-6)
