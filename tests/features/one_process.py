"""One of the processes that make banks of the digits together."""

from __future__ import annotations

import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from PIL import Image

import massl_bench as mb
from massl_bench.core.settings import Preprocessing
from massl_bench.datasets import DataOptions, EncodedImage, open_dataset, splits
from massl_bench.datasets.images.decoding import STORED, Decoding
from massl_bench.features import (
    ExtractionOptions,
    FeatureCache,
    Reporting,
    Wanted,
    bank_key,
    extraction,
    load_or_extract,
    pieces,
)
from massl_bench.features.options import Shard
from massl_bench.models.encoder import Encoder
from massl_bench.specs.registry import Registry

PIECE = 64
NUM_IMAGES = 900
WAYS = [
    Preprocessing(
        resize=side, resize_mode="shortest", crop=32, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    for side in (32, 36, 48)
]


def network() -> Encoder:
    """A small network, the same in every process."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 24, 5), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(24 * 28 * 28, 32)
    )
    return Encoder.from_module(module, name="small", transform=WAYS[0])


def meet(cache: Path, shard: Shard) -> None:
    """Waits until all processes have begun."""
    (cache / f"begun-{shard.index}").touch()
    while len(list(cache.glob("begun-*"))) < shard.count:
        time.sleep(0.01)


def slowed(cache: Path, shard: Shard, slow: float) -> list[int]:
    """Lets each batch take `slow` seconds longer, and none go on from its first before all processes are there.

    Pieces are small. Returns the numbers of images that went through a network, as they come.
    """
    pieces.PIECE, pieces.LAST, features = PIECE, PIECE, extraction._features
    seen: list[int] = []

    def counted(encoder: Encoder, images_G3HW: torch.Tensor) -> torch.Tensor:
        if not seen:
            meet(cache, shard)
        seen.append(len(images_G3HW))
        time.sleep(slow)
        return features(encoder, images_G3HW)

    extraction._features = counted
    return seen


def work(told: Connection, cache: Path, shard: Shard, slow: float) -> None:
    """Extracts train and test, when it is told to; tells the number of images that went through its network."""
    seen = slowed(cache, shard, slow)
    torch.set_num_threads(1)
    encoder = network()
    told.send("ready")
    told.recv()
    options = ExtractionOptions(shard=shard)
    mb.extract(encoder, "digits", cache_dir=cache, limit=NUM_IMAGES // 2, progress=False, options=options)
    told.send(sum(seen))


def work_in_one_pass(
    told: Connection, cache: Path, order: tuple[int, ...], along: bool, shard: Shard, slow: float
) -> None:
    """Makes banks of the training images in several ways, one after the other, when it is told to.

    Tells how many images it decoded, and how many went through its network.

    Args:
        told: how it is talked to.
        cache: of all processes.
        order: in which it wants the banks of `WAYS`.
        along: whether those after it are made along with each.
        shard: of several processes.
        slow: seconds that each batch takes longer.
    """
    seen, decoded, decode = slowed(cache, shard, slow), list[None](), splits.decode_rgb

    def counting(encoded: EncodedImage, decoding: Decoding = STORED) -> Image.Image:
        decoded.append(None)
        return decode(encoded, decoding)

    splits.decode_rgb = counting
    torch.set_num_threads(1)
    encoder = network()
    options = ExtractionOptions(shard=shard)
    dataset = open_dataset("digits", Registry(), DataOptions(cache_dir=cache))
    wanted = [
        Wanted(bank_key(encoder.card, WAYS[way], dataset, "train", NUM_IMAGES // 2, options), lambda: encoder, dataset)
        for way in order
    ]
    told.send("ready")
    told.recv()
    for number, each in enumerate(wanted):
        others = wanted[number + 1 :] if along else []
        load_or_extract(FeatureCache(cache), each, options, Reporting(), partial(list, others))
    told.send((len(decoded), sum(seen)))
