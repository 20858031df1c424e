from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn

from massl_bench.pretrain.loop.optimizers import (
    LARS,
    clip_each_gradient,
    parameter_groups,
    set_hyperparameters,
    update_teacher,
)


def small_network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_groups() -> None:
    class WithTokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 1, 4))
            self.bias = nn.Parameter(torch.zeros(2, 2))
            self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)
            self.layers = small_network()

    network = WithTokens()
    decaying, others = parameter_groups(network, weight_decay=0.04)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert [names[id(p)] for p in decaying["params"]] == ["token", "layers.0.weight", "layers.3.weight"]
    assert [names[id(p)] for p in others["params"]] == [
        "bias",
        "layers.0.bias",
        "layers.1.weight",
        "layers.1.bias",
        "layers.3.bias",
    ]
    optimizer = torch.optim.AdamW([decaying, others], lr=1.0)  # type: ignore[arg-type]
    set_hyperparameters(optimizer, lr=0.25, weight_decay=0.5)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.25, 0.5), (0.25, 0.0)]


def test_each_gradient_is_clipped_by_itself(without_device_wait: Callable[[], AbstractContextManager[None]]) -> None:
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(4)]
    for parameter, gradient in zip(parameters, ([3.0, 4.0], [0.3, 0.4], [0.0, 0.0]), strict=False):
        parameter.grad = torch.tensor(gradient)
    with without_device_wait():
        norms = clip_each_gradient(parameters, max_norm=1.0)
    torch.testing.assert_close(norms, torch.tensor([5.0, 0.5, 0.0]))
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.6, 0.8]) / (1 + 2e-7))
    assert torch.equal(parameters[1].grad, torch.tensor([0.3, 0.4]))
    assert torch.equal(parameters[2].grad, torch.zeros(2))
    assert parameters[3].grad is None
    assert clip_each_gradient(parameters[3:], max_norm=1.0).tolist() == []


def test_clipping_shows_a_gradient_that_is_not_finite() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([torch.inf, 1.0])
    assert clip_each_gradient([parameter], max_norm=1.0).tolist() == [torch.inf]
    assert parameter.grad[0].isnan()


def test_teacher_is_a_moving_average_of_parameters_only(
    without_device_wait: Callable[[], AbstractContextManager[None]],
) -> None:
    teacher, student = small_network(0), small_network(1)
    student[1].running_mean.fill_(9.0)
    expected = [0.75 * t + 0.25 * s for t, s in zip(teacher.parameters(), student.parameters(), strict=True)]
    with without_device_wait():
        update_teacher(teacher, student, 0.75)
    torch.testing.assert_close(list(teacher.parameters()), expected)
    assert teacher[1].running_mean.tolist() == [0.0] * 4

    frozen = [parameter.clone() for parameter in teacher.parameters()]
    update_teacher(teacher, student, 1.0)
    assert all(torch.equal(*pair) for pair in zip(teacher.parameters(), frozen, strict=True))
    with pytest.raises(ValueError, match=r"^teacher and student: 6 and 4 parameters; allowed: the same network twice$"):
        update_teacher(teacher, student[:3], 0.75)


def test_lars_by_its_formula(without_device_wait: Callable[[], AbstractContextManager[None]]) -> None:
    network = small_network()
    nn.init.zeros_(network[3].weight)  # type: ignore[arg-type]  # no ratio where a norm is zero
    optimizer = LARS(parameter_groups(network, weight_decay=0.1), lr=0.5, weight_decay=0.1)
    expected = [parameter.detach().clone() for parameter in network.parameters()]
    velocities = [torch.zeros_like(parameter) for parameter in expected]
    for step in range(3):
        torch.manual_seed(step)
        for parameter, weight, velocity in zip(network.parameters(), expected, velocities, strict=True):
            gradient = torch.randn_like(parameter)
            parameter.grad = gradient.clone()
            if weight.ndim > 1:
                gradient = gradient + 0.1 * weight
                if weight.norm() > 0 and gradient.norm() > 0:
                    gradient = gradient * 0.001 * weight.norm() / gradient.norm()
            velocity.mul_(0.9).add_(gradient)
            weight.sub_(0.5 * velocity)
        with without_device_wait():
            optimizer.step()
        torch.testing.assert_close([parameter.detach() for parameter in network.parameters()], expected)
    assert network[3].weight.abs().max() > 0


def test_lars_ignores_decay_of_one_dimensional_tensors_and_parameters_without_gradient() -> None:
    bias, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([bias, unused], lr=1.0, weight_decay=10.0)
    bias.grad = torch.full((3,), 0.5)
    assert optimizer.step(lambda: 7.0) == 7.0
    assert bias.tolist() == [0.5] * 3
    assert unused.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_lars_resumes_exactly() -> None:
    def advance(network: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable[int]) -> None:
        for step in steps:
            torch.manual_seed(step)
            for parameter in network.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()

    straight = small_network()
    advance(straight, LARS(straight.parameters(), lr=0.1, weight_decay=0.1), range(4))
    first, second = small_network(), small_network(1)
    optimizer = LARS(first.parameters(), lr=0.1, weight_decay=0.1)
    advance(first, optimizer, range(2))
    second.load_state_dict(first.state_dict())
    resumed = LARS(second.parameters(), lr=9.0, weight_decay=9.0)
    resumed.load_state_dict(optimizer.state_dict())
    advance(second, resumed, range(2, 4))
    assert all(torch.equal(*pair) for pair in zip(straight.parameters(), second.parameters(), strict=True))
