"""What a machine does for extraction beside the network: decoding, hashing, writing a bank and reading it back."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import massl_bench as mb
from benchmarks.measure import Comparison, take_turns
from massl_bench.core.files import sha256_file
from massl_bench.datasets import decode_rgb
from massl_bench.datasets.images.preprocess import apply_preprocessing
from massl_bench.datasets.splits import FileSplit

SUMMARY = "decoding on one core, hashing, and a bank written and read, as docs/scaling.md takes them"

IMAGES = 64
"""Photographs of 500 × 375, resized and cropped to 224, on one core."""
ROWS, DIM = 50_000, 384
"""Of the bank that is written, and of the file that is hashed."""


def run(quick: bool) -> list[Comparison]:
    """Returns the times of all four; `ours` is decoding."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        for number in range(IMAGES):
            image = Image.fromarray(np.roll(noise, number, axis=0)).resize((500, 375), Image.Resampling.BICUBIC)
            image.save(folder / f"{number}.jpg", quality=90)
        split = FileSplit(folder, [f"{number}.jpg" for number in range(IMAGES)], None, None)
        preprocessing = mb.load_encoder("random:vit_tiny_patch16_224").card.preprocessing
        features = np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32)
        file = folder / "features.npy"
        np.save(file, features)

        def decode() -> None:
            for encoded in split.encoded(range(IMAGES)):
                apply_preprocessing(decode_rgb(encoded), preprocessing)

        calls = {
            "ours": decode,
            "hashing": lambda: sha256_file(file),
            "writing": lambda: np.save(folder / "other.npy", features),
            "reading": lambda: np.load(file).sum(),
        }
        times = take_turns(calls, 1 if quick else 5)
    bank = ROWS * DIM * 4 / 1e6
    notes = (
        f"decoding: {IMAGES / times['ours'].median:,.0f} images/s of one core",
        *(f"{name}: {bank / times[name].median:,.0f} MB/s" for name in ("hashing", "writing", "reading")),
    )
    return [Comparison(what=f"{IMAGES} photographs of 500 × 375; a bank of {bank:.0f} MB", times=times, notes=notes)]
