"""A dataset of full size, where the machine has one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tests.conftest import Answer

Cli = Callable[..., Answer]


def test_cifar10_equals_brute_force(run_cli: Cli, real_data: Path) -> None:
    """50,000 × 2,000 raw pixels: the accuracy is that of a plain matrix product and a full sort in torch."""
    arguments = ("run", "--task", "knn", "--dataset", "cifar10", "--data-root", real_data, "--model", "pixels")
    answer = run_cli(*arguments, "--limit", "test=2000", "--json")
    assert answer.code == 0, answer.err
    record = json.loads(answer.out)[0]["record"]
    banks = {}
    for meta in Path(os.environ["MASSL_BENCH_CACHE"]).glob("features/*/*/meta.json"):
        role = json.loads(meta.read_text())["key"]["split"]
        banks[role] = [torch.from_numpy(np.load(meta.parent / f"{part}.npy")) for part in ("features", "labels")]
    (train, train_labels), (test, test_labels) = banks["train"], banks["test"]
    train, test = (torch.nn.functional.normalize(features) for features in (train, test))
    correct = dict.fromkeys((10, 20, 100, 200), 0)
    for start in range(0, len(test), 1000):
        similarity, index = (test[start : start + 1000] @ train.T).topk(200, dim=1)
        weight, labels = (similarity / 0.07).exp(), train_labels[index]
        for k in correct:
            votes = torch.zeros(len(weight), 10, dtype=torch.float64)
            votes.scatter_add_(1, labels[:, :k], weight[:, :k].double())
            correct[k] += int((votes.argmax(1) == test_labels[start : start + 1000]).sum())
    assert (len(train), len(test)) == (50_000, 2_000)
    for k, count in correct.items():
        assert round(record["metrics"][f"top1@{k}"]["value"] * len(test)) == count, k
