"""Weighted k-NN: four k from one search, against the published loop and the matrix product inside it."""

from __future__ import annotations

import numpy as np
import torch

import massl_bench as mb
from benchmarks.measure import Bar, Comparison, peak_mb, take_turns

SUMMARY = "weighted k-NN at four k, against the published loop and the plain matrix product"

KS = (10, 20, 100, 200)


def published(train_ND, labels_N, test_QD, truth_Q, classes):
    """The published algorithm written plainly: for each k, test images in 100 pieces, a product, top-k, a vote."""
    train_DN = torch.nn.functional.normalize(train_ND).T
    test_QD = torch.nn.functional.normalize(test_QD)
    found = {}
    for k in KS:
        right = 0
        for piece_qD, truth_q in zip(test_QD.chunk(100), truth_Q.chunk(100), strict=True):
            similarity_qk, index_qk = (piece_qD @ train_DN).topk(k)
            votes_qC = torch.zeros(len(piece_qD), classes)
            votes_qC.scatter_add_(1, labels_N[index_qk], (similarity_qk / 0.07).exp())
            right += int((votes_qC.argmax(1) == truth_q).sum())
        found[k] = right / len(test_QD)
    return found


def run(quick: bool) -> list[Comparison]:
    """Returns the comparison at 50,000 and at 200,000 training images of 384 dimensions."""
    sizes = [(2_000, 500)] if quick else [(50_000, 10_000), (200_000, 10_000)]
    return [_at(*size) for size in sizes]


def _at(num_train: int, num_test: int) -> Comparison:
    rng = np.random.default_rng(0)
    classes = 10
    centres = rng.standard_normal((classes, 384), dtype=np.float32)
    arrays = {}
    for role, count in (("train", num_train), ("test", num_test)):
        labels = rng.integers(0, classes, count)
        arrays[role] = (rng.standard_normal((count, 384), dtype=np.float32) + 0.15 * centres[labels], labels)
    banks = {role: mb.FeatureBank.from_arrays(*each) for role, each in arrays.items()}
    (train, labels), (test, truth) = (tuple(map(torch.from_numpy, arrays[role])) for role in ("train", "test"))
    buffer = torch.empty(1_000, num_train)

    def in_pieces() -> None:
        for piece_qD in test.split(len(buffer)):
            torch.mm(piece_qD, train.T, out=buffer[: len(piece_qD)])

    calls = {
        "ours": lambda: mb.evaluate("knn", banks),
        "published loop": lambda: published(train, labels, test, truth, classes),
        "matrix product": lambda: test @ train.T,
        "matrix product, into one buffer": in_pieces,
    }
    scores, theirs = calls["ours"](), calls["published loop"]()
    worst = max(abs(scores[f"top1@{k}"].value - theirs[k]) for k in KS)
    times = take_turns(calls, 3 if num_train <= 50_000 else 1)
    most = times["published loop"].median / times["matrix product, into one buffer"].median
    return Comparison(
        what=f"{num_train:,} × 384, {num_test:,} queries, k = {', '.join(map(str, KS))}",
        times=times,
        bars=(Bar(call="published loop", ratio=6.5, kind="faster"), Bar(call="matrix product", ratio=1.25)),
        peak_mb={name: peak_mb(call) for name, call in calls.items() if "product" not in name},
        notes=(
            f"largest difference of top-1 from the published loop: {100 * worst:.2f} points",
            f"the product alone, in float32 and into one buffer, is {most:.1f} × as fast as the published loop",
        ),
    )
