"""Parameter groups, gradient clipping and the teacher's moving average; LARS is `massl_bench.learners.lars`'s.

All of it acts on lists of tensors (torch._foreach_*) and never waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from massl_bench.learners.lars import LARS, ParameterGroup
from massl_bench.pretrain.loop.sharding import norms_over_ranks, of_this_rank, whole_parts

__all__ = [
    "LARS",
    "ParameterGroup",
    "clip_each_gradient",
    "parameter_groups",
    "set_hyperparameters",
    "update_teacher",
]


def parameter_groups(model: nn.Module, *, weight_decay: float) -> list[ParameterGroup]:
    """Split trainable parameters: tensors of two or more dimensions that are not biases decay, the rest do not.

    Args:
        model: A network; frozen parameters are left out.
        weight_decay: Of the first group; the second one's is 0.

    Returns:
        The decaying and the other group, in this order.
    """
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_bias = name.rpartition(".")[2] == "bias"
            (others if parameter.ndim < 2 or is_bias else decaying).append(parameter)
    return [
        {"params": decaying, "weight_decay": weight_decay, "decays": True},
        {"params": others, "weight_decay": 0.0, "decays": False},
    ]


def set_hyperparameters(optimizer: torch.optim.Optimizer, *, lr: float, weight_decay: float) -> None:
    """Write this step's learning rate to every group and its weight decay to the groups that decay.

    Args:
        optimizer: Made from `parameter_groups`.
        lr: Learning rate.
        weight_decay: Weight decay.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
        if group["decays"]:
            group["weight_decay"] = weight_decay


@torch.no_grad()
def clip_each_gradient(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale each parameter's own gradient down to a norm, in place (as DINO's trainer clips).

    A gradient of norm n is multiplied by min(1, max_norm / (n + 1e-6)). Gradients must be unscaled before.

    Args:
        parameters: Those without a gradient are passed over.
        max_norm: Largest L2 norm of one parameter's gradient; None leaves them as they are.

    Returns:
        The norms before clipping, [number of gradients], on the device: NaN or infinite where a gradient is.
    """
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not found:
        return torch.zeros(0)
    gradients = [of_this_rank(gradient) for gradient in found]
    all_norms = norms_over_ranks(torch.stack(torch._foreach_norm(gradients)), found)
    if max_norm is None:
        return all_norms
    norms = list(all_norms.unbind())
    factors = torch._foreach_add(norms, 1e-6)
    torch._foreach_reciprocal_(factors)
    torch._foreach_mul_(factors, max_norm)
    torch._foreach_clamp_max_(factors, 1.0)
    torch._foreach_mul_(gradients, factors)
    return all_norms


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher's parameters towards the student's: momentum · teacher + (1 - momentum) · student.

    Buffers, such as the statistics of BatchNorm, stay the teacher's own.

    Args:
        teacher: Updated in place.
        student: The same network, or a wrapper of it with its parameters in the same order.
        momentum: In [0, 1].

    Raises:
        ValueError: Networks with different numbers of parameters.
    """
    for of_student, of_teacher in whole_parts(student, teacher):
        if len(of_teacher) != len(of_student):
            found = f"{len(of_teacher)} and {len(of_student)}"
            raise ValueError(f"teacher and student: {found} parameters; allowed: the same network twice")
        torch._foreach_lerp_(of_teacher, of_student, 1.0 - momentum)
