"""Extraction of features, against the network's forward passes on ready tensors and decoding over the cores.

And against timm's inference loop, in a process of its own: how this one keeps memory would be the other's gain as well.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import massl_bench as mb
from benchmarks.measure import Bar, Comparison, take_turns
from massl_bench.core.devices import memory_kept
from massl_bench.datasets import decode_rgb
from massl_bench.datasets.images.preprocess import apply_preprocessing
from massl_bench.datasets.splits import FileSplit
from massl_bench.features.extraction import Target, extract
from massl_bench.features.options import ExtractionOptions

SUMMARY = "features of JPEG photographs, against forward passes on ready tensors plus decoding, and timm's loop"


def run(quick: bool) -> list[Comparison]:
    """Returns a comparison for a ViT and a ResNet at 224 from 500 × 375 photographs."""
    with tempfile.TemporaryDirectory() as folder:
        count = 16 if quick else 128
        noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        for number in range(count):
            image = Image.fromarray(np.roll(noise, number, axis=0)).resize((500, 375), Image.Resampling.BICUBIC)
            image.save(Path(folder, f"{number}.jpg"), quality=90)
        split = FileSplit(Path(folder), [f"{number}.jpg" for number in range(count)], None, None)
        models = ["random:resnet18"] if quick else ["random:resnet50", "random:vit_small_patch16_224"]
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as other:
            return [_of(model, split, folder, other) for model in models]


@cache
def _timm_model(name: str):
    import timm

    return timm.create_model(name, num_classes=0).eval()


def timms_loop(name: str, folder: str) -> int:
    """The inference script of timm, to features; its loader's workers would take the network's cores."""
    from timm.data import ImageDataset, create_loader, resolve_data_config

    model = _timm_model(name)
    settings = resolve_data_config({}, model=model)
    loader = create_loader(
        ImageDataset(folder),
        batch_size=32,
        use_prefetcher=False,
        num_workers=0,
        persistent_workers=False,
        **{key: settings[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct")},
    )
    with torch.inference_mode():
        return sum(len(model(images)) for images, _ in loader)


def _of(model: str, split: FileSplit, folder: str, other: ProcessPoolExecutor) -> Comparison:
    count = len(split)
    encoder = mb.load_encoder(model)
    preprocessing = encoder.card.preprocessing
    prepared = np.stack([apply_preprocessing(decode_rgb(e), preprocessing) for e in split.encoded(range(count))])
    ready = [encoder.normalise(batch) for batch in torch.from_numpy(prepared).split(32)]

    def decoding() -> None:
        for encoded in split.encoded(range(count)):
            apply_preprocessing(decode_rgb(encoded), preprocessing)

    target = Target(encoder=encoder, preprocessing=preprocessing, deliver=lambda _: None)

    def forward() -> None:
        with memory_kept("cpu"):  # as ours does: what is asked is what decoding adds
            for images in ready:
                encoder(images)

    calls = {
        "ours": lambda: extract([target], split, ExtractionOptions(), pieces=[range(count)]),
        "forward on ready tensors": forward,
        "decoding, one core": decoding,
        "timm's inference loop": lambda: other.submit(timms_loop, model.removeprefix("random:"), folder).result(),
    }
    times = take_turns(calls, 2)
    parts = times["forward on ready tensors"].median + times["decoding, one core"].median / (os.cpu_count() or 1)
    ratio = times["ours"].median / parts
    return Comparison(
        what=f"{model}, {count} photographs of 500 × 375 at 224",
        times=times,
        bars=(Bar(call="timm's inference loop", ratio=1, kind="faster"),),
        checks=((f"at most 1.15 × (forward + decoding / cores): {ratio:.2f}", ratio <= 1.15),),
        notes=(f"{count / times['ours'].median:.1f} images/s",),
    )
