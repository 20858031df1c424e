"""One of the processes that make the banks of the digits together: `python -m tests.features.one_process CACHE I N S`.

It says `ready`, waits for a line, and ends with the number of images that went through its network, each batch of which
takes S seconds longer; none goes on from its first batch before all are there.
"""

from __future__ import annotations

import sys
import time
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


def main(cache: Path, shard: Shard, slow: float) -> None:
    """Extracts train and test."""
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
    print("ready", flush=True)
    sys.stdin.readline()
    options = ExtractionOptions(shard=shard)
    mb.extract(encoder, "digits", cache_dir=cache, limit=NUM_IMAGES // 2, progress=False, options=options)
    print(sum(seen))


if __name__ == "__main__":
    place, index, count, seconds = sys.argv[1:]
    main(Path(place), Shard(int(index), int(count)), float(seconds))
