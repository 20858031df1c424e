"""Parameter groups, gradient clipping, the teacher's moving average, and LARS.

All of it acts on lists of tensors (torch._foreach_*) and never waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypedDict, overload

import torch
from torch import Tensor, nn


class ParameterGroup(TypedDict):
    """One group for a torch optimizer; `decays` marks the one whose weight decay is scheduled."""

    params: list[nn.Parameter]
    weight_decay: float
    decays: bool


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
def clip_each_gradient(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale each parameter's own gradient down to a norm, in place (MaSSL and DINO clip every tensor by itself).

    A gradient of norm n is multiplied by min(1, max_norm / (n + 1e-6)). Gradients must be unscaled before.

    Args:
        parameters: Those without a gradient are passed over.
        max_norm: Largest L2 norm of one parameter's gradient.

    Returns:
        The norms before clipping, [number of gradients], on the device: NaN or infinite where a gradient is.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(0)
    norms = torch._foreach_norm(gradients)
    factors = torch._foreach_add(norms, 1e-6)
    torch._foreach_reciprocal_(factors)
    torch._foreach_mul_(factors, max_norm)
    torch._foreach_clamp_max_(factors, 1.0)
    torch._foreach_mul_(gradients, factors)
    return torch.stack(norms)


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
    teacher_parameters: list[Tensor] = list(teacher.parameters())
    student_parameters: list[Tensor] = list(student.parameters())
    if len(teacher_parameters) != len(student_parameters):
        found = f"{len(teacher_parameters)} and {len(student_parameters)}"
        raise ValueError(f"teacher and student: {found} parameters; allowed: the same network twice")
    torch._foreach_lerp_(teacher_parameters, student_parameters, 1.0 - momentum)


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (arXiv 1708.03888), as CARP and DINO train their ResNets.

    For each tensor: g = gradient + weight_decay · p, scaled by eta · |p| / |g| where both norms are positive; then
    v = momentum · v + g and p = p - lr · v. Tensors of one dimension (biases, normalisation) are neither decayed nor
    adapted, whatever their group says.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[ParameterGroup],
        *,
        lr: float,
        weight_decay: float,
        momentum: float = 0.9,
        eta: float = 0.001,
    ) -> None:
        """Keep the hyper-parameters; a group's own override them.

        Args:
            params: Parameters or groups of them.
            lr: Learning rate.
            weight_decay: L2 term added to the gradient before it is scaled.
            momentum: Of the velocity.
            eta: Trust coefficient.
        """
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eta": eta}
        super().__init__(params, defaults)  # type: ignore[arg-type]

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient.

        Args:
            closure: Recomputes the loss with gradients, as for any torch optimizer.

        Returns:
            The closure's loss, if there is one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter]["velocity"] = torch.zeros_like(parameter)
            velocities = [self.state[parameter]["velocity"] for parameter in parameters]
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, _adapted_gradients(parameters, group["weight_decay"], group["eta"]))
            torch._foreach_add_(parameters, velocities, alpha=-group["lr"])
        return loss


def _adapted_gradients(parameters: list[Tensor], weight_decay: float, eta: float) -> list[Tensor]:
    """Return new decayed and rescaled gradients where parameters have several dimensions, the given ones elsewhere."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    adapted = [index for index, parameter in enumerate(parameters) if parameter.ndim > 1]
    if not adapted:
        return gradients
    weights = [parameters[index] for index in adapted]
    updates = list(torch._foreach_add([gradients[index] for index in adapted], weights, alpha=weight_decay))
    weight_norms, update_norms = torch._foreach_norm(weights), torch._foreach_norm(updates)
    ratios = [
        torch.where((weight_norm > 0) & (update_norm > 0), eta * weight_norm / update_norm, 1.0)
        for weight_norm, update_norm in zip(weight_norms, update_norms, strict=True)
    ]
    torch._foreach_mul_(updates, ratios)
    for index, update in zip(adapted, updates, strict=True):
        gradients[index] = update
    return gradients
