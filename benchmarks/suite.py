"""A suite of six tasks on one dataset, against one extraction of its features."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import massl_bench as mb
from benchmarks.measure import Comparison, Times

SUMMARY = "a suite of six tasks on one dataset, against one extraction plus the protocols' own time"

TASKS = ("knn", "linear", "kmeans", "few-shot", "class-retrieval", "spectrum")


def run(quick: bool) -> list[Comparison]:
    """Returns the comparison for a ViT-Ti/16 at 224 on photographs in class folders."""
    with tempfile.TemporaryDirectory() as folder:
        _write_images(Path(folder, "data"), 10 if quick else 30)
        model = "random:resnet18" if quick else "random:vit_tiny_patch16_224"
        return [_measure(model, f"folder:{Path(folder, 'data')}", Path(folder), 1 if quick else 3)]


def _write_images(folder: Path, per_class: int) -> None:
    """Ten classes of soft noise, of which one in five images is for testing."""
    rng = np.random.default_rng(0)
    for label in range(10):
        base = rng.integers(0, 256, (24, 32, 3))
        for number in range(per_class):
            role = "test" if number % 5 == 0 else "train"
            pixels = np.clip(base + rng.normal(0, 40, base.shape), 0, 255).astype(np.uint8)
            place = folder / role / f"class-{label}" / f"{number}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC).save(place, quality=90)


def _measure(model: str, dataset: str, folder: Path, rounds: int) -> Comparison:
    """Times, in turns: the suite with nothing cached; one extraction; the suite on features that are there."""
    seconds: dict[str, list[float]] = {"ours": [], "one extraction": [], "the protocols on cached features": []}

    def suite(cache: Path, results: str) -> None:
        found = mb.benchmark(
            model,
            tasks=TASKS,
            datasets=dataset,
            cache_dir=cache,
            results_dir=folder / results,
            device="cpu",
            offline=True,
            progress=False,
        )
        failed = [outcome for outcome in found if outcome.record is None]
        assert not failed, failed

    for turn in range(rounds + 1):
        cache = folder / f"cache-{turn}"
        encoder = mb.load_encoder(model)
        calls = {
            "ours": lambda cache=cache, turn=turn: suite(cache, f"first-{turn}"),
            "one extraction": lambda encoder=encoder: mb.extract(encoder, dataset, cache=False, progress=False),
            "the protocols on cached features": lambda cache=cache, turn=turn: suite(cache, f"second-{turn}"),
        }
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    times = {name: Times(seconds=tuple(each)) for name, each in seconds.items()}
    own = times["the protocols on cached features"].median
    ratio = (times["ours"].median - own) / times["one extraction"].median
    return Comparison(
        what=f"{model}, {len(TASKS)} tasks, photographs of 500 × 375",
        times=times,
        checks=((f"(suite - protocols on cached features) / one extraction: {ratio:.2f}, bar 1.2", ratio <= 1.2),),
    )
