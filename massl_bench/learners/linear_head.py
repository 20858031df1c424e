"""Linear classifiers that are trained by gradient steps, on features that change from epoch to epoch.

Shapes: N items, B items of a batch, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from massl_bench.core.errors import CellError
from massl_bench.core.values import ViewBatch
from massl_bench.core.wording import parameters
from massl_bench.learners.lars import LARS

_ROWS = 4096
"""Rows that are classified at a time."""


@dataclass(frozen=True, kw_only=True)
class HeadTraining:
    """How a head is trained."""

    lrs: Sequence[float]
    """Learning rate of every epoch."""
    momentum: float
    weight_decay: float
    lars_trust: float | None
    """LARS's trust coefficient; None for SGD."""
    init_std: float
    """Of the normal weights at the start; the biases are 0."""
    seed: int
    device: str


class LinearHead:
    """Features to the logits of K classes."""

    def __init__(self, dim: int, num_classes: int, training: HeadTraining) -> None:
        self._training = training
        generator = torch.Generator().manual_seed(training.seed)
        weight_KD = torch.empty(num_classes, dim).normal_(std=training.init_std, generator=generator)
        self._weight_KD = nn.Parameter(weight_KD.to(training.device))
        self._bias_K = nn.Parameter(torch.zeros(num_classes, device=training.device))

    def scores(self, features_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the logits, float32 [N, K]."""
        pieces = [self._logits(features_ND[start : start + _ROWS]) for start in range(0, len(features_ND), _ROWS)]
        scores_NK: NDArray[np.float32] = torch.cat(pieces).detach().cpu().numpy()
        return scores_NK

    def train(self, epochs: Iterable[Iterable[ViewBatch]], labels_N: NDArray[np.int64]) -> Iterator[int]:
        """Trains with softmax cross-entropy; yields the number of each epoch, from 0, when it is done.

        Args:
            epochs: the batches of each epoch; as many epochs as there are learning rates.
            labels_N: the classes of all items, which the batches' rows point into.

        Raises:
            CellError: The loss is not finite; the weights are those before that step.
        """
        optimizer, lrs = self._optimizer(), self._training.lrs
        for epoch, (lr, batches) in enumerate(zip(lrs, epochs, strict=True)):
            for group in optimizer.param_groups:
                group["lr"] = lr
            for batch in batches:
                targets_B = torch.from_numpy(labels_N[batch.rows]).to(self._weight_KD.device)
                loss = functional.cross_entropy(self._logits(batch.features), targets_B)
                if not torch.isfinite(loss):
                    raise CellError(
                        f"the loss of the linear classifier is {loss.item()} in epoch {epoch + 1} of "
                        f"{len(lrs)} at a learning rate of {lr:g}: lower it with {parameters(lr='…')}"
                    )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            yield epoch

    def _logits(self, features_BD: NDArray[np.float32]) -> Tensor:
        # A copy: a bank may be memory-mapped and read-only, which torch would warn of.
        features = torch.from_numpy(np.array(features_BD)).to(self._weight_KD.device)
        return functional.linear(features, self._weight_KD, self._bias_K)

    def _optimizer(self) -> torch.optim.Optimizer:
        training = self._training
        parameters = [self._weight_KD, self._bias_K]
        if training.lars_trust is None:
            return torch.optim.SGD(
                parameters, lr=training.lrs[0], momentum=training.momentum, weight_decay=training.weight_decay
            )
        return LARS(
            parameters,
            lr=training.lrs[0],
            weight_decay=training.weight_decay,
            momentum=training.momentum,
            eta=training.lars_trust,
        )
