"""Suites of six tasks on one dataset, against one extraction of its features."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import massl_bench as mb
from benchmarks import measure
from benchmarks.measure import Comparison, Times
from massl_bench.datasets import EncodedImage, decode_rgb, splits
from massl_bench.datasets.images.decoding import STORED, Decoding
from massl_bench.datasets.images.preprocess import apply_preprocessing
from massl_bench.specs.registry import Registry

SUMMARY = "suites of six tasks on one dataset, against one extraction plus the protocols' own time"

ONE_FEATURE = ("knn", "linear", "kmeans", "few-shot", "class-retrieval", "spectrum")
SEVERAL_FEATURES = ("knn", "kmeans", "class-retrieval", "spectrum", "layers", "kmeans-carp")
"""`layers` reads every block, `kmeans-carp` images that are resized otherwise: three banks, two forward passes."""

_BATCH = 32
_ROUNDS = 2


def run(quick: bool) -> list[Comparison]:
    """Returns the comparisons for a ViT-Ti/16 at 224 on photographs in class folders."""
    full = "random:vit_tiny_patch16_224"
    found = []
    for tasks, model, per_class in (
        (ONE_FEATURE, "pixels" if quick else full, 20),
        (SEVERAL_FEATURES, "random:resnet10t" if quick else full, 10),
    ):
        with tempfile.TemporaryDirectory() as folder:
            photographs = _Photographs(folder=Path(folder, "data"), per_class=per_class)
            photographs.write()
            found.append(_measure(model, tasks, photographs, Path(folder), 1 if quick else _ROUNDS))
    return found


@dataclass(frozen=True, kw_only=True)
class _Photographs:
    """Ten classes of soft noise, of which one in five images is for testing."""

    folder: Path
    per_class: int

    def write(self) -> None:
        rng = np.random.default_rng(0)
        for label in range(10):
            base = rng.integers(0, 256, (24, 32, 3))
            for number in range(self.per_class):
                role = "test" if number % 5 == 0 else "train"
                pixels = np.clip(base + rng.normal(0, 40, base.shape), 0, 255).astype(np.uint8)
                place = self.folder / role / f"class-{label}" / f"{number}.jpg"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC).save(place, quality=90)

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.rglob("*.jpg"))


def _one_extraction(encoder: mb.Encoder, tasks: Sequence[str], photographs: _Photographs) -> Callable[[], None]:
    """Returns the least that any extraction does: each image decoded once, by one thread a core; for each different
    input that the tasks' networks see, one resize, one crop and one forward pass.
    """
    registry = Registry()
    specs = [registry.task(task) for task in tasks]
    ways = list(dict.fromkeys(encoder.card.prepared(spec.preprocessing, spec.own_size_below) for spec in specs))
    pool = ThreadPoolExecutor(os.cpu_count())

    def prepared(file: Path) -> list[torch.Tensor]:
        image = decode_rgb(file)
        return [torch.from_numpy(apply_preprocessing(image, way)) for way in ways]

    def extraction() -> None:
        files = photographs.files
        for start in range(0, len(files), _BATCH):
            for images in zip(*pool.map(prepared, files[start : start + _BATCH]), strict=True):
                encoder(encoder.normalise(torch.stack(images)))

    return extraction


@contextmanager
def _counting() -> Iterator[list[None]]:
    """Yields a list that grows by one with each image that is decoded."""
    found, decode = list[None](), splits.decode_rgb

    def counted(encoded: EncodedImage, decoding: Decoding = STORED) -> Image.Image:
        found.append(None)
        return decode(encoded, decoding)

    splits.decode_rgb = counted
    try:
        yield found
    finally:
        splits.decode_rgb = decode


def _measure(model: str, tasks: Sequence[str], photographs: _Photographs, folder: Path, rounds: int) -> Comparison:
    """Times, in turns: the suite with nothing cached; one extraction; the suite on features that are there; the suite
    cell by cell, each without the features of the others.
    """
    dataset, own = f"folder:{photographs.folder}", "the protocols on cached features"
    seconds: dict[str, list[float]] = {"ours": [], "one extraction": [], own: [], "each cell with an empty cache": []}

    def suite(tasks: Sequence[str], cache: Path, results: str) -> None:
        found = mb.benchmark(
            model,
            tasks=tasks,
            datasets=dataset,
            cache_dir=cache,
            results_dir=folder / results,
            device="cpu",
            offline=True,
            progress=False,
        )
        failed = [outcome for outcome in found if outcome.record is None]
        assert not failed, failed

    encoder = mb.load_encoder(model)

    def one_by_one() -> None:
        for task in (None, "layers", "kmeans-carp"):
            mb.extract(encoder, dataset, task=task, cache=False, progress=False)

    seconds: dict[str, list[float]] = {}
    decodings: dict[str, int] = {}
    extraction = _one_extraction(encoder, tasks, photographs)
    for turn in range(min(rounds, measure.MOST_ROUNDS) + 1):
        cache = folder / f"cache-{turn}"
        calls = {
            "ours": lambda cache=cache, turn=turn: suite(tasks, cache, f"first-{turn}"),
            "one extraction": extraction,
            own: lambda cache=cache, turn=turn: suite(tasks, cache, f"second-{turn}"),
        }
        if tasks is SEVERAL_FEATURES:
            calls["each bank by itself"] = one_by_one
        for name, call in calls.items():
            with _counting() as decoded:
                start = measure.CLOCK()
                call()
                if turn:
                    seconds.setdefault(name, []).append(measure.CLOCK() - start)
            decodings[name] = len(decoded)
    times = {name: Times(seconds=tuple(each)) for name, each in seconds.items()}
    ratio = (times["ours"].median - times[own].median) / times["one extraction"].median
    count = len(photographs.files)
    return Comparison(
        what=f"{model}, {', '.join(tasks)}; {count} photographs of 500 × 375",
        times=times,
        checks=(
            (f"(suite - protocols on cached features) / one extraction: {ratio:.2f}, bar 1.2", ratio <= 1.2),
            (f"{decodings['ours']} images decoded, of {count}", decodings["ours"] == count),
        ),
        notes=tuple(f"{name} decodes {decodings[name]}" for name in times if name == "each bank by itself"),
    )
