"""`linear`'s grid of strengths, against scikit-learn's LogisticRegression over the same grid."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Bar, Comparison, peak_mb, take_turns
from massl_bench.learners.logistic import Stopping, fit

STRENGTHS = 10 ** np.linspace(-6, 5, 45)  # as in tasks/linear.toml

SUMMARY = "logistic regression at 45 strengths, against scikit-learn over the same grid"


def features(rng, count, dims, classes, smallest=0.02):
    """Overlapping classes in a badly conditioned basis; float32 [count, dims] and labels."""
    labels = rng.integers(classes, size=count)
    mixing = rng.standard_normal((dims, dims), dtype=np.float32) * np.geomspace(1, smallest, dims).astype(np.float32)
    found = rng.standard_normal((count, dims), dtype=np.float32)
    found += 0.12 * rng.standard_normal((classes, dims), dtype=np.float32)[labels]
    for start in range(0, count, 4096):
        found[start : start + 4096] = found[start : start + 4096] @ mixing.T
    return found, labels


def run(quick: bool) -> list[Comparison]:
    """Returns the comparisons at 50,000 × 384 with 10 classes and, at every fifth strength, with 100.

    scikit-learn would take most of an hour for all 45 with 100 classes. Ours shares each pass over the features among
    the strengths, so that fewer of them are to its disadvantage.
    """
    _at(500, 16, 3, STRENGTHS[:2])  # so that nothing is loaded while the clock runs
    if quick:
        return [_at(1_000, 32, 4, STRENGTHS[::11])]
    return [_at(50_000, 384, 10, STRENGTHS), _at(50_000, 384, 100, STRENGTHS[2::5])]


def _at(count: int, dims: int, classes: int, strengths: NDArray[np.float64]) -> Comparison:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    warnings.simplefilter("ignore")  # scikit-learn's, where 1,000 iterations are not enough
    found, labels = features(np.random.default_rng(0), count, dims, classes)
    part = count * 9 // 10
    train, rest = found[:part], found[part:]
    stopping = Stopping(tolerance=1e-3, max_iterations=1000)  # as in tasks/linear.toml
    values = {}

    def ours() -> None:
        grid = fit(train, labels[:part], classes, strengths, stopping)
        right_P, _ = grid.right_and_loss(rest, np.arange(len(rest)), labels[part:])
        values["ours"] = right_P / len(rest)

    def scikit_learn() -> None:
        scaler = StandardScaler().fit(train)
        scaled, scaled_rest = scaler.transform(train), scaler.transform(rest)
        values["scikit-learn"] = [
            LogisticRegression(C=c, max_iter=1000).fit(scaled, labels[:part]).score(scaled_rest, labels[part:])
            for c in strengths
        ]

    calls = {"ours": ours, "scikit-learn": scikit_learn}
    times = take_turns(calls, 1, warm=True)
    difference = np.abs(np.subtract(values["ours"], values["scikit-learn"])).max()
    return Comparison(
        what=f"{part:,} × {dims}, {classes} classes, {len(strengths)} strengths",
        times=times,
        bars=(Bar(call="scikit-learn", ratio=10, kind="faster"),),
        peak_mb={"ours": peak_mb(ours)},
        notes=(
            f"best held-out top-1 {100 * max(values['ours']):.2f}, of scikit-learn "
            f"{100 * max(values['scikit-learn']):.2f}; largest difference over the grid {100 * difference:.2f} points",
        ),
    )
