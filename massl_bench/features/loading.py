"""Batches of images that are ready when the device wants them.

On a GPU, worker processes decode ahead while the device computes. On the CPU decoding and the network would only
compete for the same cores, so they take turns: a batch is decoded by one thread a core, then the network has all of
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import torch
from torch.utils.data import DataLoader

from massl_bench.core.devices import available_cores, check_shared_memory
from massl_bench.core.errors import RequestError
from massl_bench.core.wording import asked
from massl_bench.features.options import ExtractionOptions
from massl_bench.features.prepared import PreparedImages


def images_at_a_time(options: ExtractionOptions, device: torch.device) -> int:
    """Returns how many images go through the encoder together."""
    return options.batch_size or (256 if device.type == "cuda" else 32)


def load_images(
    images: Callable[[int], PreparedImages],
    batches: Iterable[list[Any]],
    num_batches: int,
    options: ExtractionOptions,
    device: torch.device,
) -> DataLoader[Any]:
    """Returns a loader of batches, prepared ahead by worker processes on a GPU and by threads on the CPU.

    Args:
        images: makes the dataset for a number of threads.
        batches: the keys of each batch.
        num_batches: how many there are: more workers would have nothing to do.
        options: the number of workers.
        device: where the encoder is.
    """
    on_gpu = device.type == "cuda"
    cores = max(1, available_cores() // options.shard.here)
    num_workers = options.num_workers if options.num_workers is not None else (cores if on_gpu else 0)
    num_workers = min(num_workers, num_batches)
    prepared = images(1 if num_workers else cores)
    batch_bytes = images_at_a_time(options, device) * prepared.bytes_each
    return DataLoader(
        prepared,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        pin_memory=on_gpu,
        prefetch_factor=_batches_ahead(num_workers, batch_bytes) if num_workers else None,
    )


def _batches_ahead(num_workers: int, batch_bytes: int) -> int:
    """Returns how many batches each worker holds ready: four, or fewer where shared memory has no room for more.

    Raises:
        RequestError: It has none for one.
    """

    def check(ahead: int) -> None:
        # One more than are ready: the batch that is being used.
        needed = (ahead + 1) * num_workers * batch_bytes
        check_shared_memory(needed, num_workers, f"take fewer of them, or none: {asked('num_workers', 0)}")

    for ahead in (4, 2):
        with suppress(RequestError):
            check(ahead)
            return ahead
    check(1)
    return 1


def _as_it_is(batch: Any) -> Any:
    return batch  # the dataset returns whole batches
