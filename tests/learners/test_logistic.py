"""The solver of a whole grid of strengths, against scikit-learn and against its own optimum."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from massl_bench.core.arrays import Stacked
from massl_bench.core.devices import memory_limited
from massl_bench.core.errors import CellError
from massl_bench.core.progress import Progress
from massl_bench.learners import fit_memory, logistic
from massl_bench.learners import principal_axes as principal
from massl_bench.learners.logistic import Stopping, Watched, fit
from massl_bench.learners.principal_axes import Rows, principal_axes
from massl_bench.metrics.classification import rank_of_label

STRENGTHS = np.array([1e-3, 0.1, 10.0])
EXACT = Stopping(tolerance=1e-6, max_iterations=500)


def blobs(count: int, dims: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    centres = rng.standard_normal((classes, dims))
    scales = np.geomspace(0.01, 100, dims)
    return ((centres[labels] + 2 * rng.standard_normal((count, dims))) * scales).astype(np.float32), labels


@pytest.mark.parametrize("dims", [5, 40], ids=["more items than dimensions", "fewer items than dimensions"])
def test_each_strength_is_scikit_learns_optimum(dims: int) -> None:
    features, labels = blobs(30, dims, 3)
    found = fit(features, labels, 3, STRENGTHS, EXACT)
    assert found.converged_P.all()
    standardised = (features - features.mean(0, dtype=float)) / features.std(0, dtype=float)
    for problem, strength in enumerate(STRENGTHS):
        reference = LogisticRegression(C=strength, solver="newton-cg", tol=1e-12, max_iter=1000)
        reference.fit(standardised, labels)
        ours = found.scores(features, problem)
        # A softmax does not see what is added to all classes, and the free intercepts leave it open.
        theirs = reference.decision_function(standardised)
        np.testing.assert_allclose(
            ours - ours.mean(1, keepdims=True), theirs - theirs.mean(1, keepdims=True), atol=2e-3
        )


def test_several_labels_are_one_against_the_rest_and_difficult_ones_are_left_out() -> None:
    features, _ = blobs(60, 6, 2, seed=1)
    rng = np.random.default_rng(2)
    targets = rng.choice(np.array([-1, 0, 1], dtype=np.int8), size=(60, 2), p=[0.5, 0.1, 0.4])
    found = fit(features, targets, 2, np.array([1.0]), EXACT)
    standardised = (features - features.mean(0, dtype=float)) / features.std(0, dtype=float)
    for each in range(2):
        counted = targets[:, each] != 0
        # C is of the summed loss in both, so that items without a weight need no correction.
        reference = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)
        reference.fit(standardised[counted], targets[counted, each] == 1)
        np.testing.assert_allclose(
            found.scores(features)[:, each], reference.decision_function(standardised), atol=2e-3
        )


def test_rows_are_fitted_as_if_the_others_were_not_there() -> None:
    features, labels = blobs(50, 4, 3)
    rows = np.arange(0, 50, 2)
    part = fit(features, labels, 3, STRENGTHS, EXACT, rows_n=rows)
    alone = fit(features[rows], labels[rows], 3, STRENGTHS, EXACT)
    np.testing.assert_allclose(part.scores(features, 1), alone.scores(features, 1), atol=1e-5)


def test_a_grid_gives_what_each_strength_gives_alone() -> None:
    features, labels = blobs(80, 8, 4)
    grid = fit(features, labels, 4, STRENGTHS, EXACT)
    for problem in range(len(STRENGTHS)):
        alone = fit(features, labels, 4, STRENGTHS[problem : problem + 1], EXACT)
        np.testing.assert_allclose(grid.scores(features, problem), alone.scores(features), atol=1e-3)


def test_an_iteration_limit_is_said() -> None:
    features, labels = blobs(80, 8, 4)
    found = fit(features, labels, 4, np.array([1e4]), Stopping(tolerance=1e-12, max_iterations=2))
    assert found.iterations_P.tolist() == [2]
    assert not found.converged_P[0]


def test_a_constant_dimension_changes_nothing() -> None:
    features, labels = blobs(40, 4, 3)
    wider = np.insert(features, 2, 7.0, axis=1)
    one = fit(features, labels, 3, STRENGTHS, EXACT).scores(features, 1)
    other = fit(wider, labels, 3, STRENGTHS, EXACT).scores(wider, 1)
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_principal_axes_are_those_of_the_standardised_items() -> None:
    features, _ = blobs(200, 5, 2)
    axes = principal_axes(Rows(features))
    coordinates = axes.project(torch.from_numpy(features)).numpy().astype(float)
    np.testing.assert_allclose(coordinates.mean(0), 0, atol=1e-5)
    covariance = coordinates.T @ coordinates / 200
    np.testing.assert_allclose(covariance, np.diag(axes.variance_R.numpy()), atol=1e-4)
    assert axes.variance_R.tolist() == sorted(axes.variance_R.tolist(), reverse=True)
    np.testing.assert_allclose(axes.variance_R.sum(), 5, rtol=1e-5)  # each standardised dimension has variance 1


def test_constant_features_are_refused() -> None:
    with pytest.raises(CellError, match="all 3 feature dimensions are constant over the 10 training images"):
        principal_axes(Rows(np.ones((10, 3), dtype=np.float32)))


@pytest.mark.parametrize("limit", [None, 0, 100 * 6 * 4])
def test_rows_that_are_computed_again_change_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: int | None
) -> None:
    """Features in memory, and in a file with room for none and for some of their coordinates: the same bits."""
    features, labels = blobs(200, 6, 3)
    monkeypatch.setattr(principal, "ROWS", 32)
    held = fit(features, labels, 3, STRENGTHS, EXACT)
    monkeypatch.setattr(fit_memory, "_LARGE_BYTES", 0)
    if limit is not None:
        np.save(tmp_path / "f.npy", features)
        features = np.load(tmp_path / "f.npy", mmap_mode="r")
    with memory_limited(limit):
        again = fit(features, labels, 3, STRENGTHS, EXACT)
        assert len(principal.Coordinates(again.axes, Rows(features))._held_MR) == {None: 128, 0: 0, 2400: 96}[limit]
    assert torch.equal(held.weights_PRK, again.weights_PRK)
    assert (held.scores(features, 1) == again.scores(features, 1)).all()


def test_right_answers_and_loss_are_those_of_the_scores() -> None:
    """Of rows of two arrays, as if they stood one under the other; the first of equal logits is predicted."""
    features, labels = blobs(300, 6, 4)
    grid = fit(features, labels, 4, STRENGTHS, EXACT)
    rows = np.random.default_rng(1).permutation(300)[:250]
    right, loss = grid.right_and_loss(Stacked([features[:100], features[100:]]), rows, labels[rows])
    for problem in range(len(STRENGTHS)):
        scores = grid.scores(features, problem)[rows]
        assert right[problem] == (rank_of_label(scores, labels[rows]) == 0).sum()
        own = np.take_along_axis(scores, labels[rows][:, None], 1)[:, 0]
        np.testing.assert_allclose(loss[problem], (logsumexp(scores.astype(float), axis=1) - own).mean(), rtol=1e-5)
    nothing = replace(grid, weights_PRK=torch.zeros_like(grid.weights_PRK), bias_PK=torch.zeros_like(grid.bias_PK))
    assert (nothing.right_and_loss(features, rows, labels[rows])[0] == (labels[rows] == 0).sum()).all()


def test_two_arrays_are_fitted_as_one() -> None:
    features, labels = blobs(200, 6, 3)
    rows = np.random.default_rng(1).permutation(200)[:150]
    for chosen in (None, rows):
        one = fit(features, labels, 3, STRENGTHS, EXACT, rows_n=chosen)
        two = fit(Stacked([features[:70], features[70:]]), labels, 3, STRENGTHS, EXACT, rows_n=chosen)
        assert torch.equal(one.weights_PRK, two.weights_PRK)


@pytest.mark.parametrize("several", [False, True])
def test_loss_and_gradient_in_the_order_of_a_gpu(several: bool) -> None:
    features, labels = blobs(300, 6, 4)
    rows = Rows(features)
    targets = torch.from_numpy(np.where(labels[:, None] == np.arange(4), 1, -1) if several else labels)
    coordinates = principal.Coordinates(principal_axes(rows), rows)
    cpu, gpu = (logistic._Loss(coordinates, targets, 4) for _ in range(2))
    gpu.on_gpu, gpu.problems_first = True, not several
    theta = torch.from_numpy(np.random.default_rng(2).standard_normal((3, 7, 4), dtype=np.float32))
    for mine, other in zip(cpu(theta), gpu(theta), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    start, others = (logistic._Problems(each, torch.ones(6), torch.ones(3)) for each in (cpu, gpu))
    torch.testing.assert_close(start.gradient, others.gradient, rtol=1e-5, atol=1e-6)
    assert others.value.tolist() == pytest.approx(start.value.tolist())


def test_who_watches_sees_strengths_solved_and_changes_nothing() -> None:
    features, labels = blobs(80, 8, 4)
    alone = fit(features, labels, 4, STRENGTHS, EXACT)
    told: list[Progress] = []
    watched = Watched(total=5, report=lambda tell: told.append(tell()))
    seen = fit(features, labels, 4, STRENGTHS, replace(EXACT, watched=watched))
    fit(features, labels, 4, STRENGTHS[:2], replace(EXACT, watched=watched))
    assert torch.equal(alone.weights_PRK, seen.weights_PRK)
    assert {each.total for each in told} == {5}
    done = [each.done for each in told]
    assert done == sorted(done)
    assert {0, 3} <= set(done)
    assert watched.total == watched._solved
    work, left = np.array([each.pieces for each in told]).T
    assert all(each.at_most for each in told)
    assert (np.diff(work) >= 0).all()
    assert (np.diff(left) <= 0).all()
    # At most: of the 500 steps that each may take, few were needed.
    assert left[0] > 2400
    assert work[-1] + left[-1] < 700


@pytest.mark.parametrize("several", [False, True])
def test_no_number_is_so_small_that_processors_are_slow_with_it(several: bool) -> None:
    """Logits of strong classifiers lie a hundred apart; loss and derivative are those of float64."""
    logits = torch.linspace(-110, 20, 5 * 4 * 3).view(5, 4, 3).transpose(0, 1).contiguous()
    labels = np.array([0, 4, 2, 1])
    targets = np.where(labels[:, None] == np.arange(5), 1, -1) if several else labels
    rows = Rows(np.eye(4, dtype=np.float32))
    coordinates = principal.Coordinates(principal_axes(rows), rows)
    loss, exact = torch.zeros(3, dtype=torch.float64), logits.double().requires_grad_()
    found = logistic._Loss(coordinates, torch.from_numpy(targets), 5)._residual(
        logits.clone(), torch.from_numpy(targets), loss
    )
    if several:
        present = torch.from_numpy(targets == 1).double()[:, :, None]
        sums = (torch.nn.functional.softplus(exact) - present * exact).sum((0, 1))
    else:
        truth = torch.from_numpy(labels)[:, None].expand(4, 3)
        sums = torch.nn.functional.cross_entropy(exact, truth, reduction="none").sum(0)
    torch.testing.assert_close(loss, sums.detach(), rtol=1e-6, atol=1e-6)
    (expected,) = torch.autograd.grad(sums.sum(), exact)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)
    assert found[found != 0].abs().min() > torch.finfo(torch.float32).tiny
    assert (expected[expected != 0].abs() < torch.finfo(torch.float32).tiny).any()


def test_rows_that_a_gpu_holds_are_let_go_when_their_coordinates_are_there() -> None:
    features, _ = blobs(100, 6, 3)
    rows = Rows(features, np.arange(0, 100, 2))
    there = replace(rows, there_nD=torch.from_numpy(features[::2]))
    axes = principal_axes(there)
    assert torch.equal(axes.rotation_DR, principal_axes(rows).rotation_DR)
    found = principal.Coordinates(axes, there)
    assert torch.equal(found.read(10, 20), principal.Coordinates(axes, rows).read(10, 20))
    assert found._rows.there_nD is None
