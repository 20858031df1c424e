"""LARS against its rule written out, tensor by tensor."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from massl_bench.learners.lars import LARS

LR, DECAY, MOMENTUM, ETA = 0.3, 0.01, 0.9, 0.02


def by_hand(weights: list[torch.Tensor], gradients: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """The rule of the docstring, in float64, without any library's optimizer."""
    weights = [weight.double() for weight in weights]
    velocities = [torch.zeros_like(weight) for weight in weights]
    for step in gradients:
        for index, raw in enumerate(step):
            gradient = raw.double()
            if weights[index].ndim > 1:
                gradient = gradient + DECAY * weights[index]
                of_weight, of_gradient = weights[index].norm(), gradient.norm()
                if of_weight > 0 and of_gradient > 0:
                    gradient = gradient * ETA * of_weight / of_gradient
            velocities[index] = MOMENTUM * velocities[index] + gradient
            weights[index] = weights[index] - LR * velocities[index]
    return weights


def test_five_steps_of_matrices_vectors_and_kernels() -> None:
    generator = torch.Generator().manual_seed(3)
    shapes = [(4, 3), (4,), (2, 3, 3, 3), (1,), (5, 1)]
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    parameters.append(nn.Parameter(torch.zeros(3, 2)))  # no norm: not adapted
    gradients = [[torch.randn(p.shape, generator=generator) for p in parameters] for _ in range(5)]
    gradients[2][0].zero_()  # the decay alone is left
    expected = by_hand([p.detach().clone() for p in parameters], gradients)
    optimizer = LARS(parameters, lr=LR, weight_decay=DECAY, momentum=MOMENTUM, eta=ETA)
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    for parameter, value in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.detach().double(), value, rtol=1e-5, atol=1e-6)


def test_what_has_no_gradient_stays_and_groups_have_their_own_numbers() -> None:
    still, moved, slow = (nn.Parameter(torch.ones(2, 2)) for _ in range(3))
    groups = [{"params": [still, moved], "decays": True}, {"params": [slow], "lr": LR / 10, "decays": False}]
    optimizer = LARS(groups, lr=LR, weight_decay=0.0, momentum=0.0, eta=ETA)  # type: ignore[arg-type]
    moved.grad, slow.grad = torch.ones(2, 2), torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(still, torch.ones(2, 2))
    torch.testing.assert_close(1 - moved.detach(), torch.full((2, 2), LR * ETA))
    torch.testing.assert_close(1 - slow.detach(), torch.full((2, 2), LR / 10 * ETA))


def test_a_state_that_was_saved_goes_on() -> None:
    weight = nn.Parameter(torch.arange(6.0).view(2, 3))
    optimizer = LARS([weight], lr=LR, weight_decay=DECAY)
    weight.grad = torch.ones(2, 3)
    optimizer.step()
    other = nn.Parameter(weight.detach().clone())
    resumed = LARS([other], lr=LR, weight_decay=DECAY)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for parameter, each in ((weight, optimizer), (other, resumed)):
        parameter.grad = torch.full((2, 3), -0.5)
        each.step()
    assert torch.equal(weight, other)


def test_a_closure_is_called_with_gradients() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([weight], lr=LR, weight_decay=0.0)

    def loss() -> float:
        optimizer.zero_grad()
        value = (weight**2).sum()
        value.backward()
        return value.item()

    assert optimizer.step(loss) == pytest.approx(4.0)
    assert (weight < 1).all()
