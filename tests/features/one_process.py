"""One of the processes that make the banks of the digits together."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

import massl_bench as mb
from massl_bench.core.settings import Preprocessing
from massl_bench.features import ExtractionOptions, extraction, pieces
from massl_bench.features.options import Shard
from massl_bench.models.encoder import Encoder

PIECE = 64
NUM_IMAGES = 900


def network() -> Encoder:
    """A small network, the same in every process."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 24, 5), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(24 * 28 * 28, 32)
    )
    transform = Preprocessing(
        resize=32, resize_mode="shortest", crop=32, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    return Encoder.from_module(module, name="small", transform=transform)


def meet(cache: Path, shard: Shard) -> None:
    """Waits until all processes have begun."""
    (cache / f"begun-{shard.index}").touch()
    while len(list(cache.glob("begun-*"))) < shard.count:
        time.sleep(0.01)


def work(told: Connection, cache: Path, shard: Shard, slow: float) -> None:
    """Extracts train and test, when it is told to; tells the number of images that went through its network.

    Each batch of them takes `slow` seconds longer; none goes on from its first batch before all are there.
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
    torch.set_num_threads(1)
    encoder = network()
    told.send("ready")
    told.recv()
    options = ExtractionOptions(shard=shard)
    mb.extract(encoder, "digits", cache_dir=cache, limit=NUM_IMAGES // 2, progress=False, options=options)
    told.send(sum(seen))
