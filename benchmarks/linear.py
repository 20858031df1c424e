"""`linear`'s grid against scikit-learn's LogisticRegression over the same grid: time, accuracy, memory.

python benchmarks/linear.py [--train 50000] [--dims 384] [--classes 10] [--strengths 45] [--skip-reference]
python benchmarks/linear.py --features FILE.npz    (as `massl-bench run --features` takes it)
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from massl_bench.learners.logistic import Stopping, fit
from massl_bench.protocols import linear


def features(rng, train, test, dims, classes, smallest):
    """Overlapping classes in a badly conditioned basis; float32 [train + test, dims] and labels."""
    count = train + test
    labels = rng.integers(classes, size=count)
    mixing = rng.standard_normal((dims, dims), dtype=np.float32) * np.geomspace(1, smallest, dims).astype(np.float32)
    found = rng.standard_normal((count, dims), dtype=np.float32)
    found += 0.12 * rng.standard_normal((classes, dims), dtype=np.float32)[labels]
    for start in range(0, count, 4096):
        found[start : start + 4096] = found[start : start + 4096] @ mixing.T
    return found, labels


def data(options):
    """Returns training and test features, float32 [N, D], then their labels; sets the options to what they are."""
    if options.features is not None:
        with np.load(options.features) as arrays:
            names = ("train_features", "test_features", "train_labels", "test_labels")
            train, test, truth, test_truth = (arrays[name] for name in names)
        options.train, options.dims = train.shape
        options.classes = int(truth.max()) + 1
        return train, test, truth, test_truth
    rng = np.random.default_rng(0)
    found, labels = features(rng, options.train, options.test, options.dims, options.classes, options.smallest)
    return found[: options.train], found[options.train :], labels[: options.train], labels[options.train :]


def status(key):
    """Returns a size of this process in bytes (Linux): `VmRSS` now, `VmHWM` at its peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def reset_peak():
    """Forgets the peak so far; returns the size now."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("train", 50_000), ("test", 10_000), ("dims", 384), ("classes", 10), ("strengths", 45)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--smallest", type=float, default=0.02, help="scale of the weakest direction; 1: round classes")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="as in tasks/linear.toml")
    parser.add_argument("--reference-tol", type=float, default=1e-4, help="scikit-learn's tol")
    parser.add_argument("--features", type=Path, help="your own, in place of synthetic ones")
    parser.add_argument("--skip-reference", action="store_true", help="our side only, as for peak memory")
    options = parser.parse_args()
    train, test, truth, test_truth = data(options)
    strengths = 10 ** np.linspace(-6, 5, options.strengths)
    held_out = linear.hold_out(truth, 0.1, np.random.default_rng(0))
    fitted = np.setdiff1d(np.arange(options.train), held_out)
    stopping = Stopping(tolerance=options.tolerance, max_iterations=1000)
    print(f"{options.train} × {options.dims}, {options.classes} classes, {options.strengths} strengths")
    print(f"{torch.get_num_threads()} threads")

    fit(train[:1000], truth[:1000], options.classes, strengths[:2], stopping)  # loads the libraries' kernels
    before = reset_peak()
    start = time.perf_counter()
    grid = fit(train, truth, options.classes, strengths, stopping, rows_n=fitted)
    values = [(scores.argmax(1) == truth[held_out]).mean() for scores in grid.scores_of_rows(train, held_out)]
    best = strengths[int(np.argmax(values))]
    iterations = grid.iterations_P.max()
    del grid
    final = fit(train, truth, options.classes, np.array([best]), stopping)
    ours = (final.scores(test).argmax(1) == test_truth).mean()
    seconds = time.perf_counter() - start
    peak = status("VmHWM") - before
    print(f"massl-bench  {seconds:.2f} s, C {best:.3g}, top-1 {100 * ours:.2f}, at most {iterations} iterations")
    print(f"peak memory in addition: {peak / 2**20:.0f} MiB = {peak / train.nbytes:.2f} × the training features")
    if options.skip_reference:
        return

    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    warnings.simplefilter("ignore")
    start = time.perf_counter()
    scaler = StandardScaler().fit(train[fitted])
    part, rest = scaler.transform(train[fitted]), scaler.transform(train[held_out])
    reference = [
        LogisticRegression(C=c, max_iter=1000, tol=options.reference_tol)
        .fit(part, truth[fitted])
        .score(rest, truth[held_out])
        for c in strengths
    ]
    scaler = StandardScaler().fit(train)
    chosen = strengths[int(np.argmax(reference))]
    model = LogisticRegression(C=chosen, max_iter=1000, tol=options.reference_tol).fit(scaler.transform(train), truth)
    theirs = model.score(scaler.transform(test), test_truth)
    their_seconds = time.perf_counter() - start
    print(f"scikit-learn {their_seconds:.2f} s, C {chosen:.3g}, top-1 {100 * theirs:.2f}")
    print(f"ratio of times {seconds / their_seconds:.3f}; difference {100 * (ours - theirs):+.2f} points")
    print(
        f"largest difference on the held-out part over the grid {100 * np.abs(np.array(values) - reference).max():.2f}"
    )


if __name__ == "__main__":
    main()
