"""Layers that are trained by gradient steps, against torch's own layer, attention, loss and optimizers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from massl_bench.core.values import ViewBatch
from massl_bench.learners.attentive_head import AttentiveHeads
from massl_bench.learners.lars import LARS
from massl_bench.learners.linear_head import HeadTraining, LinearHeads

RNG = np.random.default_rng(2)
FEATURES = RNG.standard_normal((60, 7)).astype(np.float32)
LABELS = RNG.integers(0, 4, 60)
FACTORS = (1.0, 0.4, 0.2)


def training(*rates: float, lars_trust: float | None = None) -> HeadTraining:
    return HeadTraining(
        rates=rates or (0.5,),
        momentum=0.9,
        weight_decay=1e-3,
        lars_trust=lars_trust,
        init_std=0.01,
        seed=1,
        device="cpu",
    )


def batches(epochs: int) -> Iterator[list[ViewBatch]]:
    """Each epoch in an order of its own, 16 at a time."""
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(60)
        parts = [order[start : start + 16] for start in range(0, 60, 16)]
        yield [ViewBatch(rows=rows, features=FEATURES[rows]) for rows in parts]


def train(head: LinearHeads) -> LinearHeads:
    for factor, epoch in zip(FACTORS, batches(3), strict=True):
        for batch in epoch:
            head.step(batch.features, LABELS[batch.rows], factor)
    return head


@pytest.mark.parametrize("lars_trust", [None, 0.02])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_is_torchs_own_layer_under_the_same_steps(lars_trust: float | None, place: int) -> None:
    rates = (0.05, 0.5, 2.0)
    heads = LinearHeads(7, 4, training(*rates, lars_trust=lars_trust))
    layer = nn.Linear(7, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.empty(4, 7).normal_(std=0.01, generator=torch.Generator().manual_seed(1)))
        layer.bias.zero_()
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-3)
        if lars_trust is None
        else LARS(layer.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-3, eta=lars_trust)
    )
    own = layer(torch.from_numpy(FEATURES)).detach()
    np.testing.assert_allclose(heads.scores(FEATURES, place), own, rtol=1e-5)
    train(heads)
    for factor, epoch in zip(FACTORS, batches(3), strict=True):
        optimizer.param_groups[0]["lr"] = rates[place] * factor
        for batch in epoch:
            optimizer.zero_grad()
            targets = torch.from_numpy(LABELS[batch.rows])
            functional.cross_entropy(layer(torch.from_numpy(batch.features)), targets).backward()
            optimizer.step()
    found = heads.scores(FEATURES, place)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, layer(torch.from_numpy(FEATURES)).detach(), rtol=1e-4, atol=1e-5)
    assert heads.num_parameters == 4 * 7 + 4


def test_a_loss_that_is_not_finite_stops_before_the_step() -> None:
    heads = LinearHeads(7, 4, training(1.0))
    before = heads.scores(FEATURES)
    broken = FEATURES[:4].copy()
    broken[1, 2] = np.inf
    heads.step(broken, LABELS[:4], 1.0)
    assert heads.finite_P.tolist() == [False]
    assert np.array_equal(heads.scores(FEATURES), before)
    heads.step(FEATURES[:4], LABELS[:4], 1.0)
    assert heads.finite_P.tolist() == [False]
    assert np.array_equal(heads.scores(FEATURES), before)


def test_one_that_diverges_leaves_the_others_as_if_alone() -> None:
    together, alone = train(LinearHeads(7, 4, training(0.5, 1e38))), train(LinearHeads(7, 4, training(0.5)))
    assert together.finite_P.tolist() == [True, False]
    np.testing.assert_allclose(together.scores(FEATURES), alone.scores(FEATURES), rtol=1e-5, atol=1e-6)


def test_rows_are_classified_alike_however_many_there_are() -> None:
    heads = LinearHeads(7, 4, training())
    many = np.tile(FEATURES, (100, 1))
    np.testing.assert_allclose(heads.scores(many), np.tile(heads.scores(FEATURES), (100, 1)), atol=1e-6)


TOKENS = RNG.standard_normal((60, 5, 6)).astype(np.float32)


def test_attention_starts_as_the_mean_of_the_tokens() -> None:
    heads = AttentiveHeads(6, 2, 4, training(0.1, 1.0))
    linear = LinearHeads(6, 4, training(0.1))
    np.testing.assert_allclose(heads.scores(TOKENS, 1), linear.scores(TOKENS.mean(axis=1)), rtol=1e-4, atol=1e-6)
    assert heads.num_parameters == 2 * 6 + 4 * 6 + 4


@pytest.mark.parametrize("place", [0, 1])
def test_attention_is_torchs_attention_of_one_query_under_the_same_steps(place: int) -> None:
    rates = (0.3, 3.0)
    heads = AttentiveHeads(6, 2, 4, training(*rates))
    layer, query = nn.Linear(6, 4), nn.Parameter(torch.zeros(2, 6))
    with torch.no_grad():
        layer.weight.copy_(torch.empty(4, 6).normal_(std=0.01, generator=torch.Generator().manual_seed(1)))
        layer.bias.zero_()

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        """One query a head over the same keys; each head has its own channels as values."""
        values = tokens.unflatten(2, (2, 3)).transpose(1, 2)
        keys = tokens[:, None].expand(-1, 2, -1, -1)
        brought = functional.scaled_dot_product_attention(
            query[None, :, None].expand(len(tokens), -1, -1, -1), keys, values
        )
        return layer(brought.flatten(1))

    optimizer = torch.optim.SGD([query, *layer.parameters()], lr=rates[place], momentum=0.9, weight_decay=1e-3)
    for _ in range(25):
        heads.step(TOKENS, LABELS, 1.0)
        optimizer.zero_grad()
        functional.cross_entropy(logits(torch.from_numpy(TOKENS)), torch.from_numpy(LABELS)).backward()
        optimizer.step()
    expected = logits(torch.from_numpy(TOKENS)).detach()
    np.testing.assert_allclose(heads.scores(TOKENS, place), expected, rtol=1e-3, atol=1e-4)
    assert query.abs().max() > 0.01  # the query has learnt something
