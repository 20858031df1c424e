"""The bars on speed, as ratios within one run (`tox -e speed`); they want a machine that is not busy otherwise."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import massl_bench as mb
from massl_bench.core.values import EvaluationData, FeatureBank
from massl_bench.datasets import decode_rgb
from massl_bench.datasets.images.preprocess import apply_preprocessing
from massl_bench.datasets.splits import FileSplit
from massl_bench.features.extraction import Extracted, Target, extract
from massl_bench.features.options import ExtractionOptions
from massl_bench.protocols import kmeans, knn

pytestmark = pytest.mark.speed


def best_of(rounds: int, *calls: Callable[[], object]) -> list[float]:
    """Returns the shortest time of each call, in seconds; the calls take turns, so that a busy moment hits them all."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, times in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return [min(times) for times in seconds]


def test_knn_against_its_matrix_product(record_property: Callable[[str, object], None]) -> None:
    """The k-NN step on 50,000 × 384 features and 10,000 queries: at most 1.25 × the float32 matrix product in torch."""
    rng = np.random.default_rng(0)
    banks = {
        role: FeatureBank.from_arrays(rng.standard_normal((count, 384), dtype=np.float32), rng.integers(0, 10, count))
        for role, count in (("train", 50_000), ("test", 10_000))
    }
    data = EvaluationData(banks=banks, num_classes=10)
    params = knn.Params(k=(10, 20, 100, 200), temperature=0.07, bootstrap_resamples=1000)
    train, test = (torch.from_numpy(banks[role].features) for role in ("train", "test"))
    product, step = best_of(3, lambda: test @ train.T, lambda: knn.run(data, params, rng))
    record_property("ratio", step / product)
    print(f"k-NN {step:.2f} s, matrix product {product:.2f} s, ratio {step / product:.2f}")
    assert step <= 1.25 * product


def test_kmeans_against_the_plain_call(record_property: Callable[[str, object], None]) -> None:
    """k-means of 50,000 × 384 features into 100, ten restarts: at most 1.1 × FAISS's own call on the same rows.

    The rows are standardised beforehand: FAISS ends a restart when it converges, and other rows take other iterations.
    """
    rng = np.random.default_rng(0)
    banks = {
        role: FeatureBank.from_arrays(rng.standard_normal((count, 384), dtype=np.float32), rng.integers(0, 100, count))
        for role, count in (("train", 50_000), ("test", 10_000))
    }
    data = EvaluationData(banks=banks, num_classes=100)
    mean_D, inverse_std_D = kmeans.standardisation(banks["train"].features)
    rows_ND = (banks["train"].features - mean_D) * inverse_std_D
    params = kmeans.Params(
        iterations=100, restarts=10, faiss_seed=1234, max_points_per_centroid="all", bootstrap_resamples=1000
    )

    def plain() -> None:
        import faiss  # after torch

        faiss.Kmeans(
            384, 100, niter=100, nredo=10, seed=1234, spherical=True, update_index=False, max_points_per_centroid=500
        ).train(rows_ND)

    small = kmeans.Params(**{**params.model_dump(), "iterations": 1, "restarts": 1})
    kmeans.run(data, small, rng)  # loads the libraries
    alone, protocol = best_of(3, plain, lambda: kmeans.run(data, params, rng))
    record_property("ratio", protocol / alone)
    print(f"k-means {protocol:.2f} s, FAISS alone {alone:.2f} s, ratio {protocol / alone:.2f}")
    assert protocol <= 1.1 * alone


@pytest.mark.parametrize("model", ["random:resnet50", "random:vit_small_patch16_224"])
def test_extraction_against_its_parts(model: str, tmp_path: Path) -> None:
    """At most 1.25 × (forward on ready tensors + decoding and resizing / cores), at 224 from 500 × 375 photographs."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    for number in range(64):
        image = Image.fromarray(np.roll(noise, number, axis=0)).resize((500, 375), Image.Resampling.BICUBIC)
        image.save(tmp_path / f"{number}.jpg", quality=90)
    split = FileSplit(tmp_path, [f"{number}.jpg" for number in range(64)], None, None)
    encoder = mb.load_encoder(model)
    preprocessing = encoder.card.preprocessing
    prepared = np.stack([apply_preprocessing(decode_rgb(e), preprocessing) for e in split.encoded(range(64))])
    ready = [encoder.normalise(batch) for batch in torch.from_numpy(prepared).split(32)]

    def forward() -> None:
        for images in ready:
            encoder(images)

    def decode() -> None:
        for encoded in split.encoded(range(64)):
            apply_preprocessing(decode_rgb(encoded), preprocessing)

    def extraction() -> None:
        pieces: list[Extracted] = []
        target = Target(encoder=encoder, preprocessing=preprocessing, deliver=pieces.append)
        extract([target], split, ExtractionOptions(), pieces=[range(64)])

    forward()
    network, decoding, whole = best_of(3, forward, decode, extraction)
    bar = network + decoding / (os.cpu_count() or 1)
    print(f"{model}: extraction {whole:.2f} s, parts {bar:.2f} s, ratio {whole / bar:.2f}")
    assert whole <= 1.25 * bar
