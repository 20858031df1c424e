"""How time grows with items, classes and k: the exponent of a power law through n, 2 n and 4 n."""

from __future__ import annotations

from functools import partial

import numpy as np

import massl_bench as mb
from benchmarks.massl_objective import make_inputs, ours
from benchmarks.measure import Comparison, take_turns
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.data.crops import BatchRequest, MultiCropImages
from massl_bench.pretrain.data.sample import SampleImages

SUMMARY = "growth with items, classes, k, views and memory, as exponents"


def _banks(count: int, classes: int) -> dict[str, mb.FeatureBank]:
    rng = np.random.default_rng(0)
    found = {}
    for role, size in (("train", count), ("test", 1_000)):
        labels = np.concatenate([np.arange(classes), rng.integers(0, classes, size - classes)])
        found[role] = mb.FeatureBank.from_arrays(rng.standard_normal((size, 128), dtype=np.float32), labels)
    return found


def run(quick: bool) -> list[Comparison]:
    """Returns one comparison for each quantity; `ours` is at n, the others at 2 n and 4 n."""
    start = 1_000 if quick else 20_000
    k = [20]

    def knn(count: int, classes: int, neighbours: list[int]):
        banks = _banks(count, classes)
        return lambda: mb.evaluate("knn", banks, params={"k": neighbours, "bootstrap_resamples": 1})

    def linear(count: int, classes: int):
        banks = _banks(count, classes)
        return lambda: mb.evaluate("few-shot", banks, params={"shots": [4], "num_draws": 1})

    def kmeans(count: int):
        banks = _banks(count, 20)
        return lambda: mb.evaluate("kmeans", banks, params={"iterations": 20, "restarts": 1, "bootstrap_resamples": 1})

    def objective(views: int, memory: int):
        return partial(ours, make_inputs(2 if quick else 8, memory, 512 if quick else 8_192, views=views))

    def cutting(num_local: int):
        views = load_config("massl-vits16-800ep", [f"views.num_local={num_local}"]).views
        images = MultiCropImages(SampleImages.like(views), views, seed=0, rank=0)
        return lambda: images[BatchRequest(0, 0, range(1 if quick else 8))]

    size = 512 if quick else 16_384
    series = {
        "MaSSL's objective over memory rows": [objective(12, size * factor) for factor in (1, 2, 4)],
        "MaSSL's objective over views": [objective(6 * factor, size) for factor in (1, 2, 4)],
        "cutting views over their number": [cutting(10 * factor - 2) for factor in (1, 2, 4)],
        "k-NN over training items": [knn(start * factor, 10, k) for factor in (1, 2, 4)],
        "k-NN over classes": [knn(start, 50 * factor, k) for factor in (1, 2, 4)],
        "k-NN over k": [knn(start, 10, [50 * factor]) for factor in (1, 2, 4)],
        "few-shot over classes": [linear(start, (5 if quick else 25) * factor) for factor in (1, 2, 4)],
        "k-means over training items": [kmeans(start * factor) for factor in (1, 2, 4)],
    }
    found = []
    for what, calls in series.items():
        times = take_turns(dict(zip(("ours", "2 n", "4 n"), calls, strict=True)), 2)
        exponent = float(np.polyfit(np.log([1, 2, 4]), np.log([each.median for each in times.values()]), 1)[0])
        # Every one of these algorithms is linear; a tenth is for the machine.
        check = (f"at most n^1.1: n^{exponent:.2f}", exponent <= 1.1)
        found.append(Comparison(what=what, times=times, checks=(check,)))
    return found
