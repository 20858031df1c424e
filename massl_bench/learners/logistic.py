"""L2-regularised logistic regression for a whole grid of strengths at once, by a preconditioned batched L-BFGS.

The penalty does not change under a rotation, so the problem is solved in the principal axes of the standardised
features, where the Hessian at zero is diagonal: L-BFGS starts from it, and its first step is Newton's. All strengths
share each pass over the features: one matrix product for the logits and one for the gradients.

Shapes: N items, D features, R principal axes (at most D), K classes, P problems (strengths), M pairs of the history.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from massl_bench.core.arrays import Stacked
from massl_bench.core.devices import free_memory, memory_kept
from massl_bench.core.progress import Progress, Report, report_nothing
from massl_bench.learners.fit_memory import HISTORY, ROWS, FitSize, group_of, rows_at_once
from massl_bench.learners.principal_axes import Axes, Coordinates, Rows, principal_axes

_LOWEST = -70.0
"""Logits below the largest by more are taken as this: e^−70 = 4e-31 is nothing beside 1 in float32, and numbers below
1e-38 take a processor a hundred times as long."""


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
        scores_NK = np.empty((len(features_ND), self.bias_PK.shape[1]), dtype=np.float32)
        done = 0
        for rows_nD in Rows(features_ND, device=str(self.bias_PK.device)).pieces():
            scores_NK[done : done + len(rows_nD)] = self._logits(self.axes.project(rows_nD), problem).cpu().numpy()
            done += len(rows_nD)
        return scores_NK

    def right_and_loss(
        self, features_ND: NDArray[np.float32] | Stacked, rows_n: NDArray[np.int64], classes_n: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Returns how many of the given rows each classifier gets right, and its mean loss on them, [P] each.

        Of classes with the same logit the first counts, as in `metrics.rank_of_label`.
        """
        device = self.bias_PK.device
        rows, truth_n = Rows(features_ND, rows_n, str(device)), torch.from_numpy(np.array(classes_n)).to(device)
        problems = range(len(self.bias_PK))
        right_P = torch.zeros(len(problems), dtype=torch.int64, device=device)
        loss_Pn = torch.empty((len(problems), len(rows)), device=device)
        for start in range(0, len(rows), ROWS):
            chosen = slice(start, min(start + ROWS, len(rows)))
            piece_nR = self.axes.project(rows.read(chosen.start, chosen.stop))
            for problem in problems:
                logits_nK = self._logits(piece_nR, problem)
                right_P[problem] += (logits_nK.argmax(1) == truth_n[chosen]).sum()
                loss_Pn[problem, chosen] = functional.cross_entropy(logits_nK, truth_n[chosen], reduction="none")
        return right_P.cpu().numpy(), np.array([float(loss_n.double().mean()) for loss_n in loss_Pn])

    def on_rows(
        self, features_ND: NDArray[np.float32] | Stacked, rows_n: NDArray[np.int64], targets_nK: NDArray[np.int8]
    ) -> Iterator[tuple[NDArray[np.float32], float]]:
        """Yields (logits float32 [n, K], mean loss) of one classifier after the other on the given rows.

        `targets_nK` of these rows, as for `fit` where an item has several labels.
        """
        coordinates = Coordinates(self.axes, Rows(features_ND, rows_n, str(self.bias_PK.device)))
        truth = torch.from_numpy(np.array(targets_nK)).to(self.bias_PK.device)
        for problem in range(len(self.bias_PK)):
            logits_nK = torch.cat([self._logits(piece_nR, problem) for _, piece_nR in coordinates.pieces(ROWS)])
            # −log of the probability of what is true: softplus of the logit away from it.
            loss_n = (functional.softplus(-truth * logits_nK) * (truth != 0)).sum(1)
            yield logits_nK.cpu().numpy(), float(loss_n.double().mean())

    def _logits(self, piece_nR: Tensor, problem: int) -> Tensor:
        return torch.addmm(self.bias_PK[problem], piece_nR, self.weights_PRK[problem])


@dataclass(kw_only=True)
class Watched:
    """Tells, of several fits together, how many strengths are solved.

    How many steps a problem takes is not known beforehand; how many it may take is.
    """

    total: int
    """Strengths of all fits."""
    report: Report = report_nothing
    _solved: int = field(default=0, init=False)
    _steps: int = field(default=0, init=False)

    def solved(self, iterations_p: Tensor) -> None:
        """Counts problems that have ended after so many steps."""
        self._solved += len(iterations_p)
        self._steps += int(iterations_p.sum())

    def progress(self, iterations_P: Tensor, most: int) -> Progress:
        """Returns how far all is while some problems have taken so many steps, of the most that they may."""
        waiting = self.total - self._solved - len(iterations_P)
        steps = int(iterations_P.sum())
        left = (len(iterations_P) + waiting) * most - steps
        return Progress(
            done=self._solved, total=self.total, unit="strengths solved", work=(self._steps + steps, left), at_most=True
        )


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """When a problem counts as solved, and who is told."""

    tolerance: float
    """Norm of the gradient of the mean loss in the metric of the inverse Hessian at zero. Its square is about twice the
    loss above the minimum, in weak directions too, where a plain norm is small long before the weights are right."""
    max_iterations: int
    watched: Watched | None = None


def fit(
    features_ND: NDArray[np.float32] | Stacked,
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
        stopping: tolerance and limit, and who is told how far it is.
        rows_n: the rows to fit; all where None.
        device: where to compute.

    Raises:
        CellError: Every feature dimension is constant.
    """
    size = FitSize(
        dim=features_ND.shape[1], num_classes=num_classes, num_strengths=len(strengths), several_labels=targets.ndim > 1
    )
    rows = _on_device(Rows(features_ND, rows_n, device), size)
    axes = principal_axes(rows)
    coordinates = Coordinates(axes, rows, others=size.on_gpu)
    del rows
    chosen = torch.from_numpy(np.array(targets if rows_n is None else targets[rows_n])).to(device)
    group = group_of(coordinates.rank, num_classes)
    penalties_P = torch.from_numpy(1 / (strengths * len(coordinates))).float().to(device)
    loss = _Loss(coordinates, chosen, num_classes)
    with memory_kept(device):  # what a step frees is what the next one asks for
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


def _on_device(rows: Rows, size: FitSize) -> Rows:
    """Returns rows that a GPU holds, where it has room for them beside their coordinates: they are read four times."""
    num_bytes = 4 * len(rows) * size.dim
    if rows.device == "cpu" or 2 * num_bytes + size.on_gpu > free_memory(rows.device):
        return rows
    there_nD = torch.empty((len(rows), size.dim), device=rows.device)
    for start in range(0, len(rows), ROWS):
        there_nD[start : start + ROWS] = rows.read(start, min(start + ROWS, len(rows)))
    return replace(rows, there_nD=there_nD)


class _Loss:
    """Mean loss and gradient of P linear classifiers on the same items."""

    def __init__(self, coordinates: Coordinates, targets: Tensor, num_classes: int) -> None:
        self._coordinates = coordinates
        self._targets = targets
        self.num_classes = num_classes
        self.kind: Literal["softmax", "sigmoid"] = "softmax" if targets.ndim == 1 else "sigmoid"
        # The curvature at zero, where every class is equally likely: p(1 − p), without the part that all classes share.
        self.curvature = 1 / num_classes if self.kind == "softmax" else 0.25
        self.on_gpu = targets.device.type != "cpu"
        # On the CPU sums over classes run over whole vectors of problems; a GPU has one kernel for a softmax of rows.
        self.problems_first = self.on_gpu and self.kind == "softmax"

    def __call__(self, theta_PRK: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (loss float64 [P], gradient [P, R + 1, K]) without the penalty; the last row is the intercept's."""
        count = len(self._coordinates)
        problems, rank, classes = theta_PRK.shape[0], theta_PRK.shape[1] - 1, theta_PRK.shape[2]
        there, back = ((1, 0, 2), (1, 0, 2)) if self.problems_first else ((1, 2, 0), (2, 0, 1))
        theta = theta_PRK.permute(there)
        shape, theta = theta.shape, theta.reshape(rank + 1, classes * problems)
        loss_P = torch.zeros(problems, dtype=torch.float64, device=theta.device)
        gradient = torch.zeros_like(theta)
        rows = rows_at_once(classes * problems, count, on_gpu=self.on_gpu)
        for chosen, chunk_nR in self._coordinates.pieces(rows):
            self._add(chunk_nR, self._targets[chosen], (theta, shape), (loss_P, gradient))
        return loss_P / count, (gradient / count).view(shape).permute(back).contiguous()

    def _add(
        self, chunk_nR: Tensor, targets: Tensor, point: tuple[Tensor, torch.Size], sums: tuple[Tensor, Tensor]
    ) -> None:
        """Adds loss and gradient of a piece; what it holds is free for the next one."""
        (theta, shape), (loss_P, gradient) = point, sums
        logits = torch.addmm(theta[-1], chunk_nR, theta[:-1]).view(-1, *shape[1:])
        residual = (self._residual_of_rows if self.problems_first else self._residual)(logits, targets, loss_P)
        residual = residual.view(len(chunk_nR), -1)
        gradient[:-1].addmm_(chunk_nR.T, residual)
        gradient[-1] += residual.sum(0)

    def _residual(self, logits_nKP: Tensor, targets: Tensor, loss_P: Tensor) -> Tensor:
        """Adds the summed loss to `loss_P`; returns its derivative by the logits (in their place)."""
        if self.kind == "softmax":
            index_n11 = targets[:, None, None].expand(-1, 1, logits_nKP.shape[2])
            own_n1P = logits_nKP.gather(1, index_n11)
            peak_n1P = _largest(logits_nKP)
            logits_nKP.sub_(peak_n1P).clamp_(min=_LOWEST).exp_()
            total_n1P = logits_nKP.sum(1, keepdim=True)
            loss_P += (total_n1P.log() + peak_n1P - own_n1P).sum((0, 1), dtype=torch.float64)
            logits_nKP.div_(total_n1P)
            return logits_nKP.scatter_add_(1, index_n11, logits_nKP.new_full((1, 1, 1), -1.0).expand_as(index_n11))
        counted_nK1 = (targets != 0)[:, :, None]
        present_nK1 = (targets == 1)[:, :, None].to(logits_nKP.dtype)
        low_nKP = logits_nKP.clamp(min=_LOWEST)
        losses_nKP = functional.softplus(low_nKP) - present_nK1 * logits_nKP
        loss_P += (losses_nKP * counted_nK1).sum((0, 1), dtype=torch.float64)
        return (low_nKP.sigmoid_() - present_nK1) * counted_nK1

    def _residual_of_rows(self, logits_nPK: Tensor, targets: Tensor, loss_P: Tensor) -> Tensor:
        """The same of a softmax in two passes over the logits, where the others take eight."""
        index_nP1 = targets[:, None, None].expand(-1, logits_nPK.shape[1], 1)
        log_nPK = torch.log_softmax(logits_nPK, 2)
        loss_P -= log_nPK.gather(2, index_nP1).sum((0, 2), dtype=torch.float64)
        return log_nPK.exp_().scatter_add_(2, index_nP1, log_nPK.new_full((1, 1, 1), -1.0).expand_as(index_nP1))


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
        # All start at the same point. On the CPU the products of one problem could round otherwise than those of all.
        value, gradient = loss(self.theta[:1] if loss.on_gpu else self.theta)
        self.value, self.gradient = value.expand(count).clone(), gradient.expand_as(self.theta).clone()
        self.steps = self.theta.new_zeros((count, HISTORY, *self.theta.shape[1:]))
        self.changes = torch.zeros_like(self.steps)
        self.inverse_curvature = self.theta.new_zeros((count, HISTORY))  # 0: no pair in this place
        self.newest = 0  # the place of the last pair
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
        """Goes on with the chosen problems only; their history moves up in its place, as it is most of the memory."""
        history = {"steps", "changes"}
        for name in vars(self).keys() - history - {"newest"}:
            setattr(self, name, getattr(self, name)[chosen])
        for name in history:
            value = getattr(self, name)
            for place, problem in enumerate(chosen.nonzero()[:, 0].tolist()):
                if place != problem:
                    value[place] = value[problem]
            setattr(self, name, value[: len(self.index)])

    def remember(self, accepted: Tensor, step: Tensor, change: Tensor) -> None:
        """Stores the pairs of the accepted problems that have curvature above rounding."""
        product = _dot(step, change)
        useful = accepted & (product > 1e-8 * (_dot(step, step) * _dot(change, change)).sqrt())
        pairs = (self.steps, step), (self.changes, change), (self.inverse_curvature, 1 / product)
        for problem in (~useful).nonzero()[:, 0].tolist():  # no new pair: its others stay as old as they are
            for kept, _ in pairs:
                kept[problem] = kept[problem].roll(1, 0)
        self.newest = (self.newest + 1) % HISTORY
        for kept, value in pairs:
            there = kept[:, self.newest]
            there.copy_(torch.where(useful.view(-1, *[1] * (value.ndim - 1)), value, there))

    def descent(self) -> Tensor:
        """Returns the L-BFGS direction of every problem (Nocedal and Wright, algorithm 7.4)."""
        places = [(self.newest - age) % HISTORY for age in range(HISTORY)]
        shares = []
        q = self.gradient.clone()
        for place in places:
            share = self.inverse_curvature[:, place] * _dot(self.steps[:, place], q)
            q -= share[:, None, None] * self.changes[:, place]
            shares.append(share)
        change = self.changes[:, self.newest]
        scaled = _dot(change, self.inverse * change) * self.inverse_curvature[:, self.newest]
        scale = torch.where(scaled > 0, 1 / scaled, 1.0)
        q *= self.inverse * scale[:, None, None]
        for place, share in zip(reversed(places), reversed(shares), strict=True):
            back = self.inverse_curvature[:, place] * _dot(self.changes[:, place], q)
            q += (share - back)[:, None, None] * self.steps[:, place]
        return -q


def _largest(values_nKP: Tensor) -> Tensor:
    """Returns the largest of K, [n, 1, P]: by halves, as `amax` over a middle dimension takes five times as long."""
    while (count := values_nKP.shape[1]) > 1:
        half = count - count // 2
        values_nKP = torch.maximum(values_nKP[:, :half], values_nKP[:, count - half :])
    return values_nKP


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum((1, 2))


def _minimise(
    loss: _Loss, variance_R: Tensor, penalties_P: Tensor, stopping: Stopping
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (theta [P, R + 1, K], iterations [P], converged [P])."""
    active, watched = _Problems(loss, variance_R, penalties_P), stopping.watched
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
            if watched is not None:
                watched.solved(iterations[index.cpu()])
            converged[index.cpu()] = (solved | (active.length < 1e-8))[ended].cpu()
            if ended.all():
                return theta, iterations, converged
            active.keep(~ended)
        _step(active, loss)
        if watched is not None:
            watched.report(lambda: watched.progress(active.iterations, stopping.max_iterations))


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
