"""L2-regularised logistic regression for a whole grid of strengths at once, by a preconditioned batched L-BFGS.

The penalty does not change under a rotation, so the problem is solved in the principal axes of the standardised
features, where the Hessian at zero is diagonal: L-BFGS starts from it, and its first step is Newton's. All strengths
share each pass over the features: one matrix product for the logits and one for the gradients.

Shapes: N items, D features, R principal axes (at most D), K classes, P problems (strengths), M pairs of the history.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from massl_bench.learners.principal_axes import ROWS, Axes, Coordinates, Rows, principal_axes

_LOGITS = 1 << 20
"""Logits of all problems that are held at a time: they stay in the processor's cache."""

_DEVICE_LOGITS = 1 << 27
"""The same on a GPU, 512 MB: its products want rows by the thousand, and each of them is a launch."""

_HISTORY = 10
"""M, as in scikit-learn's (SciPy's) L-BFGS."""

_STATE_BYTES = 1 << 30
"""The problems are solved in groups whose histories stay below this size (1,000 classes × 2,048 dimensions are 16 MB
for each strength and vector)."""


@dataclass(frozen=True, eq=False)
class Classifiers:
    """One linear classifier for each strength, in the coordinates of its axes."""

    axes: Axes
    weights_PRK: Tensor
    bias_PK: Tensor
    iterations_P: NDArray[np.int64]
    converged_P: NDArray[np.bool_]

    def scores(self, features_ND: NDArray[np.float32], problem: int = 0) -> NDArray[np.float32]:
        """Returns the logits of one of the classifiers, float32 [N, K]."""
        pieces = Rows(features_ND, device=str(self.bias_PK.device)).pieces()
        return self._scores((self.axes.project(rows_nD) for rows_nD in pieces), problem).cpu().numpy()

    def on_rows(
        self, features_ND: NDArray[np.float32], rows_n: NDArray[np.int64], targets: NDArray[Any]
    ) -> Iterator[tuple[NDArray[np.float32], float]]:
        """Yields (logits float32 [n, K], mean loss) of one classifier after the other on the given rows.

        `targets` as for `fit`, of these rows.
        """
        coordinates = Coordinates(self.axes, Rows(features_ND, rows_n, str(self.bias_PK.device)))
        truth = torch.from_numpy(np.array(targets)).to(self.bias_PK.device)
        for problem in range(len(self.bias_PK)):
            logits_nK = self._scores((piece_nR for _, piece_nR in coordinates.pieces(ROWS)), problem)
            if truth.ndim == 1:
                loss_n = functional.cross_entropy(logits_nK, truth, reduction="none")
            else:
                # −log of the probability of what is true: softplus of the logit away from it.
                loss_n = (functional.softplus(-truth * logits_nK) * (truth != 0)).sum(1)
            yield logits_nK.cpu().numpy(), float(loss_n.double().mean())

    def _scores(self, pieces: Iterable[Tensor], problem: int) -> Tensor:
        weights_RK, bias_K = self.weights_PRK[problem], self.bias_PK[problem]
        return torch.cat([torch.addmm(bias_K, piece_nR, weights_RK) for piece_nR in pieces])


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """When a problem counts as solved."""

    tolerance: float
    """Norm of the gradient of the mean loss in the metric of the inverse Hessian at zero. Its square is about twice the
    loss above the minimum, in weak directions too, where a plain norm is small long before the weights are right."""
    max_iterations: int


def fit(
    features_ND: NDArray[np.float32],
    targets: NDArray[np.int64] | NDArray[np.int8],
    num_classes: int,
    strengths: NDArray[np.float64],
    stopping: Stopping,
    *,
    rows_n: NDArray[np.int64] | None = None,
    device: str = "cpu",
) -> Classifiers:
    """Fits one classifier for each strength C: minimises C · (summed loss) + ½ ‖W‖², with a free intercept.

    Args:
        features_ND: float32, finite; standardised here, on the rows that are fitted.
        targets: int64 [N] classes (multinomial), or int8 [N, K] with 1 present, −1 absent, 0 left out (one-vs-rest).
        num_classes: K.
        strengths: C of each problem, as in scikit-learn.
        stopping: tolerance and limit.
        rows_n: the rows to fit; all where None.
        device: where to compute.

    Raises:
        CellError: Every feature dimension is constant.
    """
    rows = Rows(features_ND, rows_n, device)
    axes = principal_axes(rows)
    coordinates = Coordinates(axes, rows)
    chosen = torch.from_numpy(np.array(targets if rows_n is None else targets[rows_n])).to(device)
    weight_bytes = 4 * (coordinates.rank + 1) * num_classes
    group = max(1, _STATE_BYTES // (weight_bytes * (2 * _HISTORY + 8)))
    penalties_P = torch.from_numpy(1 / (strengths * len(coordinates))).float().to(device)
    loss = _Loss(coordinates, chosen, num_classes)
    solved = [
        _minimise(loss, axes.variance_R, penalties_P[start : start + group], stopping)
        for start in range(0, len(penalties_P), group)
    ]
    theta_PRK = torch.cat([each[0] for each in solved])
    return Classifiers(
        axes,
        theta_PRK[:, :-1],
        theta_PRK[:, -1],
        np.concatenate([each[1].numpy() for each in solved]),
        np.concatenate([each[2].numpy() for each in solved]),
    )


class _Loss:
    """Mean loss and gradient of P linear classifiers on the same items."""

    def __init__(self, coordinates: Coordinates, targets: Tensor, num_classes: int) -> None:
        self._coordinates = coordinates
        self._targets = targets
        self.num_classes = num_classes
        self.kind: Literal["softmax", "sigmoid"] = "softmax" if targets.ndim == 1 else "sigmoid"
        # The curvature at zero, where every class is equally likely: p(1 − p), without the part that all classes share.
        self.curvature = 1 / num_classes if self.kind == "softmax" else 0.25

    def __call__(self, theta_PRK: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (loss float64 [P], gradient [P, R + 1, K]) without the penalty; the last row is the intercept's."""
        count = len(self._coordinates)
        problems, rank, classes = theta_PRK.shape[0], theta_PRK.shape[1] - 1, theta_PRK.shape[2]
        # Classes before problems: the sums over classes then run over whole vectors of problems.
        theta_RKP = theta_PRK.permute(1, 2, 0).reshape(rank + 1, classes * problems)
        weights, bias = theta_RKP[:-1], theta_RKP[-1]
        loss_P = torch.zeros(problems, dtype=torch.float64, device=theta_PRK.device)
        gradient = torch.zeros_like(theta_RKP)
        at_once, most = (_LOGITS, ROWS) if theta_PRK.device.type == "cpu" else (_DEVICE_LOGITS, count)
        rows = max(64, min(most, at_once // (classes * problems)))
        for chosen, chunk_nR in self._coordinates.pieces(rows):
            logits_nKP = torch.addmm(bias, chunk_nR, weights).view(-1, classes, problems)
            residual_nKP = self._residual(logits_nKP, self._targets[chosen], loss_P)
            residual = residual_nKP.view(-1, classes * problems)
            gradient[:-1].addmm_(chunk_nR.T, residual)
            gradient[-1] += residual.sum(0)
        return loss_P / count, (gradient / count).view(rank + 1, classes, problems).permute(2, 0, 1).contiguous()

    def _residual(self, logits_nKP: Tensor, targets: Tensor, loss_P: Tensor) -> Tensor:
        """Adds the summed loss to `loss_P`; returns its derivative by the logits (in their place)."""
        if self.kind == "softmax":
            index_n11 = targets[:, None, None].expand(-1, 1, logits_nKP.shape[2])
            own_n1P = logits_nKP.gather(1, index_n11)
            peak_n1P = logits_nKP.amax(1, keepdim=True)
            logits_nKP.sub_(peak_n1P).exp_()
            total_n1P = logits_nKP.sum(1, keepdim=True)
            loss_P += (total_n1P.log() + peak_n1P - own_n1P).sum((0, 1), dtype=torch.float64)
            logits_nKP.div_(total_n1P)
            return logits_nKP.scatter_add_(1, index_n11, logits_nKP.new_full((1, 1, 1), -1.0).expand_as(index_n11))
        counted_nK1 = (targets != 0)[:, :, None]
        present_nK1 = (targets == 1)[:, :, None].to(logits_nKP.dtype)
        losses_nKP = functional.softplus(logits_nKP) - present_nK1 * logits_nKP
        loss_P += (losses_nKP * counted_nK1).sum((0, 1), dtype=torch.float64)
        return (logits_nKP.sigmoid_() - present_nK1) * counted_nK1


class _Problems:
    """The state of the problems that are not yet solved; each goes through its own line search at its own pace."""

    def __init__(self, loss: _Loss, variance_R: Tensor, penalties_P: Tensor) -> None:
        count, rank = len(penalties_P), len(variance_R)
        self.index = torch.arange(count, device=penalties_P.device)
        self.penalty = penalties_P[:, None, None]
        curvature_PR1 = loss.curvature * variance_R[None, :, None] + self.penalty
        # Inverse of the Hessian at zero; the last row is the intercept's.
        self.inverse = 1 / torch.cat([curvature_PR1, torch.full_like(self.penalty, loss.curvature)], 1)
        self.theta = torch.zeros((count, rank + 1, loss.num_classes), device=penalties_P.device)
        self.value, self.gradient = self.evaluate(loss, self.theta)
        self.steps = self.theta.new_zeros((count, _HISTORY, *self.theta.shape[1:]))
        self.changes = torch.zeros_like(self.steps)
        self.inverse_curvature = self.theta.new_zeros((count, _HISTORY))  # 0: no pair in this place
        self.newest = torch.zeros_like(self.index)
        self.iterations = torch.zeros_like(self.index)
        self.direction = -self.inverse * self.gradient
        self.length = torch.ones_like(penalties_P)

    def evaluate(self, loss: _Loss, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Returns value and gradient with the penalty, which leaves the intercept free."""
        value, gradient = loss(theta)
        weights = theta[:, :-1]
        value += 0.5 * self.penalty[:, 0, 0] * weights.square().sum((1, 2), dtype=torch.float64)
        gradient[:, :-1] += self.penalty * weights
        return value, gradient

    def keep(self, chosen: Tensor) -> None:
        """Goes on with the chosen problems only."""
        for name, value in vars(self).items():
            setattr(self, name, value[chosen])

    def remember(self, accepted: Tensor, step: Tensor, change: Tensor) -> None:
        """Stores the pairs of the accepted problems that have curvature above rounding."""
        product = _dot(step, change)
        useful = accepted & (product > 1e-8 * (_dot(step, step) * _dot(change, change)).sqrt())
        self.newest = torch.where(useful, (self.newest + 1) % _HISTORY, self.newest)
        problem, place = useful.nonzero()[:, 0], self.newest[useful]
        self.steps[problem, place] = step[useful]
        self.changes[problem, place] = change[useful]
        self.inverse_curvature[problem, place] = 1 / product[useful]

    def descent(self) -> Tensor:
        """Returns the L-BFGS direction of every problem (Nocedal and Wright, algorithm 7.4)."""
        everyone = torch.arange(len(self.index), device=self.index.device)
        places = [(self.newest - age) % _HISTORY for age in range(_HISTORY)]
        shares = []
        q = self.gradient.clone()
        for place in places:
            share = self.inverse_curvature[everyone, place] * _dot(self.steps[everyone, place], q)
            q -= share[:, None, None] * self.changes[everyone, place]
            shares.append(share)
        change = self.changes[everyone, self.newest]
        scaled = _dot(change, self.inverse * change) * self.inverse_curvature[everyone, self.newest]
        scale = torch.where(scaled > 0, 1 / scaled, 1.0)
        q *= self.inverse * scale[:, None, None]
        for place, share in zip(reversed(places), reversed(shares), strict=True):
            back = self.inverse_curvature[everyone, place] * _dot(self.changes[everyone, place], q)
            q += (share - back)[:, None, None] * self.steps[everyone, place]
        return -q


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum((1, 2))


def _minimise(
    loss: _Loss, variance_R: Tensor, penalties_P: Tensor, stopping: Stopping
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (theta [P, R + 1, K], iterations [P], converged [P])."""
    active = _Problems(loss, variance_R, penalties_P)
    theta, iterations = active.theta.clone(), torch.zeros(len(penalties_P), dtype=torch.int64)
    converged = torch.zeros(len(penalties_P), dtype=torch.bool)
    while True:
        solved = _dot(active.gradient, active.inverse * active.gradient).sqrt() <= stopping.tolerance
        # A step that rounding keeps from going down any further: the value is as low as float32 sees.
        ended = solved | (active.length < 1e-8) | (active.iterations >= stopping.max_iterations)
        if ended.any():
            index = active.index[ended]
            theta[index] = active.theta[ended]
            iterations[index.cpu()] = active.iterations[ended].cpu()
            converged[index.cpu()] = (solved | (active.length < 1e-8))[ended].cpu()
            if ended.all():
                return theta, iterations, converged
            active.keep(~ended)
        _step(active, loss)


def _step(active: _Problems, loss: _Loss) -> None:
    """Tries every problem's point; moves the problems it is good for, and shortens the others' step."""
    length = active.length[:, None, None]
    trial = active.theta + length * active.direction
    value, gradient = active.evaluate(loss, trial)
    slope = _dot(active.gradient, active.direction)
    new_slope = _dot(gradient, active.direction)
    enough = value <= active.value + 1e-4 * active.length * slope
    # Near the minimum differences of values drown in rounding, and slopes do not (Hager and Zhang, 2005, eq. 4.1).
    close = (value <= active.value + 1e-6 * active.value.abs()) & (new_slope <= (2e-4 - 1) * slope)
    accepted = (enough | close) & torch.isfinite(value)
    active.remember(accepted, length * active.direction, gradient - active.gradient)
    # The minimum of the parabola through both slopes, within bounds.
    fraction = torch.nan_to_num(slope / (slope - new_slope), nan=0.1, posinf=0.1, neginf=0.1).clamp(0.1, 0.5)
    chosen = accepted[:, None, None]
    active.theta = torch.where(chosen, trial, active.theta)
    active.gradient = torch.where(chosen, gradient, active.gradient)
    active.value = torch.where(accepted, value, active.value)
    active.iterations += accepted
    active.direction = torch.where(chosen, active.descent(), active.direction)
    active.length = torch.where(accepted, 1.0, active.length * fraction)
