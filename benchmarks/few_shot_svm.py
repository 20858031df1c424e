"""Low-shot SVMs, against the published loop on cached features."""

from __future__ import annotations

import warnings

import numpy as np

import massl_bench as mb
from benchmarks.measure import Bar, Comparison, take_turns

SUMMARY = "few-shot SVMs of 20 classes, against the published loop"


def published(train_ND, labels_NC, test_QD, truth_QC, shots, draws):
    """One LinearSVC a class and draw on the images as drawn, repeats and all; scikit-learn's AP of each class."""
    from sklearn.metrics import average_precision_score
    from sklearn.svm import LinearSVC

    rng = np.random.default_rng(0)
    values = []
    for k in shots:
        for _ in range(draws):
            rows = np.concatenate([rng.choice(np.flatnonzero(each == 1), k, replace=False) for each in labels_NC.T])
            train_nD = train_ND[rows] / (np.linalg.norm(train_ND[rows], axis=1, keepdims=True) + 1e-5)
            test_nD = test_QD / (np.linalg.norm(test_QD, axis=1, keepdims=True) + 1e-5)
            for index in range(labels_NC.shape[1]):
                sign = np.where(labels_NC[rows, index] == 1, 1, -1)
                svm = LinearSVC(
                    C=0.5,
                    class_weight={1: 2, -1: 1},
                    penalty="l2",
                    loss="squared_hinge",
                    tol=1e-4,
                    dual=True,
                    max_iter=2000,
                )
                svm.fit(train_nD, sign)
                values.append(average_precision_score(truth_QC[:, index] == 1, svm.decision_function(test_nD)))
    return float(np.mean(values))


def run(quick: bool) -> list[Comparison]:
    """Returns the comparison at VOC07's size: 20 classes, 5,011 and 4,952 images, 2,048 dimensions."""
    rng = np.random.default_rng(0)
    classes, dims, count, tests = (5, 64, 300, 200) if quick else (20, 2048, 5011, 4952)
    shots, draws = ((1, 2), 2) if quick else ((1, 2, 4, 8, 16), 5)
    centres = rng.standard_normal((classes, dims), dtype=np.float32)
    arrays = {}
    for role, size in (("train", count), ("test", tests)):
        labels = np.where(rng.random((size, classes)) < 1.5 / classes, 1, -1).astype(np.int8)
        arrays[role] = (
            rng.standard_normal((size, dims), dtype=np.float32) + 0.2 * (labels == 1).astype(np.float32) @ centres,
            labels,
        )
    banks = {role: mb.FeatureBank.from_arrays(*each) for role, each in arrays.items()}
    params = {"shots": list(shots), "num_draws": draws, "full": False}
    calls = {
        "ours": lambda: mb.evaluate("few-shot-svm", banks, params=params),
        "published loop": lambda: published(*arrays["train"], *arrays["test"], shots, draws),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        times = take_turns(calls, 1)
        value = calls["ours"]()[f"map@k{shots[-1]}"].value
    return [
        Comparison(
            what=f"{classes} classes, {len(shots)} shots × {draws} draws, {dims:,} dimensions",
            times=times,
            bars=(Bar(call="published loop", ratio=2, kind="faster"),),
            notes=(f"map@k{shots[-1]} {100 * value:.2f}",),
        )
    ]
