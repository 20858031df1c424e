"""LARS, which pretraining and linear heads share."""

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
