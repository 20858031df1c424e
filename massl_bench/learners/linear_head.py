"""Classifiers that are trained by gradient steps, on features that change from epoch to epoch.

Several that differ in their learning rate alone are trained at once: they see the same batches from the same start, and
each takes the steps that it would take by itself.

Shapes: N items, B items of a batch, D features, K classes, P classifiers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from massl_bench.learners.lars import LARS

_ROWS = 4096
"""Rows that are classified at a time."""


@dataclass(frozen=True, kw_only=True)
class HeadTraining:
    """How heads are trained."""

    rates: Sequence[float]
    """The learning rate of each head, P of them, before the schedule."""
    momentum: float
    weight_decay: float
    lars_trust: float | None
    """LARS's trust coefficient; None for SGD."""
    init_std: float
    """Of the normal weights at the start, which are the same for all heads; the biases are 0."""
    seed: int
    device: str


class Heads(ABC):
    """Features to the logits of K classes, by P heads that differ in their learning rate alone.

    Args:
        start: the parameters of one head at the start, which all P have.
        training: how they are trained.
    """

    def __init__(self, start: Sequence[Tensor], training: HeadTraining) -> None:
        self._training = training
        count = len(training.rates)
        # One product gives the logits of all heads; the optimizer sees its parts, so that LARS has a norm for each.
        self._stacks = [
            tensor.to(training.device).repeat(count, *[1] * tensor.ndim).requires_grad_() for tensor in start
        ]
        self._parts = [[nn.Parameter(stack.detach()[place]) for stack in self._stacks] for place in range(count)]
        self._optimizer = self._make_optimizer()
        self.finite_P: NDArray[np.bool_] = np.ones(count, dtype=bool)
        """Which heads have had a finite loss at every step."""

    @abstractmethod
    def _logits(self, features: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Returns the logits [B, P, K] by parameters that have P heads as their first dimension."""

    @property
    def num_parameters(self) -> int:
        """The number of parameters of one head."""
        return sum(stack[0].numel() for stack in self._stacks)

    def scores(self, features_N: NDArray[np.float32], head: int = 0) -> NDArray[np.float32]:
        """Returns the logits of one head, float32 [N, K]."""
        parameters = [stack.detach()[head : head + 1] for stack in self._stacks]
        pieces = [
            self._logits(self._tensor(features_N[start : start + _ROWS]), parameters)[:, 0]
            for start in range(0, len(features_N), _ROWS)
        ]
        scores_NK: NDArray[np.float32] = torch.cat(pieces).cpu().numpy()
        return scores_NK

    def step(self, features_B: NDArray[np.float32], targets_B: NDArray[np.int64], factor: float) -> None:
        """Takes one step of softmax cross-entropy with each head.

        A head whose loss is not finite stays as it is from then on, and the others go on.

        Args:
            features_B: of a batch.
            targets_B: its classes.
            factor: of the schedule, which multiplies every learning rate.
        """
        logits_BPK = self._logits(self._tensor(features_B), self._stacks)
        _, count, num_classes = logits_BPK.shape
        targets = torch.from_numpy(targets_B).to(logits_BPK.device).repeat_interleave(count)
        losses_X = functional.cross_entropy(logits_BPK.reshape(-1, num_classes), targets, reduction="none")
        losses_P = losses_X.view(-1, count).mean(0)
        self.finite_P = torch.isfinite(losses_P).cpu().numpy() & self.finite_P
        for stack in self._stacks:
            stack.grad = None
        losses_P.sum().backward()  # type: ignore[no-untyped-call]
        for place, (group, parts) in enumerate(zip(self._optimizer.param_groups, self._parts, strict=True)):
            group["lr"] = self._training.rates[place] * factor
            for part, stack in zip(parts, self._stacks, strict=True):
                assert stack.grad is not None
                part.grad = stack.grad[place] if self.finite_P[place] else None
        self._optimizer.step()

    def _tensor(self, features_B: NDArray[np.float32]) -> Tensor:
        # A copy: a bank may be memory-mapped and read-only, which torch would warn of.
        return torch.from_numpy(np.array(features_B)).to(self._training.device)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        training = self._training
        groups = [{"params": parts, "lr": rate} for parts, rate in zip(self._parts, training.rates, strict=True)]
        if training.lars_trust is None:
            return torch.optim.SGD(
                groups, lr=training.rates[0], momentum=training.momentum, weight_decay=training.weight_decay
            )
        return LARS(
            groups,  # type: ignore[arg-type]  # a group says no more than it has to
            lr=training.rates[0],
            weight_decay=training.weight_decay,
            momentum=training.momentum,
            eta=training.lars_trust,
        )


class LinearHeads(Heads):
    """A linear layer each.

    Args:
        dim: D, of the features [N, D].
        num_classes: K.
        training: how they are trained.
    """

    def __init__(self, dim: int, num_classes: int, training: HeadTraining) -> None:
        super().__init__(linear_start(dim, num_classes, training), training)

    @override
    def _logits(self, features: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        weight_PKD, bias_PK = parameters
        logits_BX = functional.linear(features, weight_PKD.flatten(0, 1), bias_PK.flatten())
        return logits_BX.view(-1, *bias_PK.shape)


def linear_start(dim: int, num_classes: int, training: HeadTraining) -> list[Tensor]:
    """Returns the weight [K, D] and the bias [K] that a linear layer starts with."""
    generator = torch.Generator().manual_seed(training.seed)
    weight_KD = torch.empty(num_classes, dim).normal_(std=training.init_std, generator=generator)
    return [weight_KD, torch.zeros(num_classes)]


Schedule = Callable[[int, float], float]
"""(epoch from 0, share of it that is done) to what every learning rate is multiplied by."""
