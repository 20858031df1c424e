"""Which images each step takes, and a loader that brings their crops."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.wording import asked
from massl_bench.datasets import ImageSplit, Unreadable
from massl_bench.pretrain import methods
from massl_bench.pretrain.backbones import patch_side
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.data.crops import BatchRequest, HostBatch, MultiCropImages
from massl_bench.pretrain.seeds import seeded_generator

PREFETCHED = 2
"""Pieces of a batch that each of a loader's processes prepares ahead."""

_PROBED = 16


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How the images of a step are divided.

    Attributes:
        num_images: of the dataset.
        batch_size: images of a step, on all ranks.
        world_size: ranks.
        pieces: parts of a rank's share that are computed one after the other.
    """

    num_images: int
    batch_size: int
    world_size: int
    pieces: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of an epoch; the images that are left over change with every epoch."""
        return self.num_images // self.batch_size

    @property
    def rank_batch(self) -> int:
        """Images of one rank in one step."""
        return self.batch_size // self.world_size


def divide(config: PretrainConfig, num_images: int, world_size: int) -> Shares:
    """Returns the shares of a configuration.

    Raises:
        RequestError: The batch cannot be divided, or there are fewer images than one batch.
    """
    parts = world_size * config.compute.accumulation
    if config.batch_size % parts:
        raise RequestError(
            f"batch_size: {config.batch_size} is not a multiple of {world_size} ranks × compute.accumulation "
            f"{config.compute.accumulation}"
        )
    images = config.batch_size // parts
    try:
        methods.load(config.method)(config).check_piece(images)
    except ValueError as error:
        raise RequestError(
            f"compute.accumulation: {config.compute.accumulation} pieces of {images} images on each of {world_size} "
            f"ranks, {error}; or give fewer, or a larger batch_size"
        ) from None
    if num_images < config.batch_size:
        raise RequestError(
            f"batch_size: {config.batch_size}, but the dataset has {num_images} images; allowed: up to {num_images}"
        )
    return Shares(
        num_images=num_images,
        batch_size=config.batch_size,
        world_size=world_size,
        pieces=config.compute.accumulation,
    )


class StepRequests(Sampler[BatchRequest]):
    """The pieces of all steps of one rank, in order; each epoch is a new permutation, the same on all ranks."""

    def __init__(self, shares: Shares, *, seed: int, rank: int, first_step: int, num_steps: int) -> None:
        self._shares, self._seed, self._rank = shares, seed, rank
        self._steps = range(first_step, num_steps)

    def __iter__(self) -> Iterator[BatchRequest]:
        """Yields the pieces from the first step on."""
        shares, epoch, order = self._shares, -1, torch.empty(0, dtype=torch.int64)
        for step in self._steps:
            if epoch != step // shares.steps_per_epoch:
                epoch = step // shares.steps_per_epoch
                order = torch.randperm(shares.num_images, generator=seeded_generator(self._seed, "order", epoch))
            start = step % shares.steps_per_epoch * shares.batch_size + self._rank * shares.rank_batch
            mine = order[start : start + shares.rank_batch].view(shares.pieces, -1)
            for piece, indices in enumerate(mine.tolist()):
                yield BatchRequest(step, piece, indices)


def load_batches(images: MultiCropImages, requests: StepRequests, *, workers: int, pin_memory: bool) -> Watched:
    """Returns the crops of all requests, in order, prepared ahead by worker processes where there are any.

    Raises:
        CellError: An image is damaged; the text says which. When its batch is taken.
    """
    return Watched(_batches(images, requests, workers=workers, pin_memory=pin_memory))


def _batches(images: MultiCropImages, requests: StepRequests, *, workers: int, pin_memory: bool) -> Iterator[HostBatch]:
    loader: DataLoader[Any] = DataLoader(
        images,
        sampler=requests,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        prefetch_factor=PREFETCHED if workers else None,
        persistent_workers=workers > 0,
        worker_init_fn=_leave_signals_to_the_trainer,
        # Unused, as batches seed themselves; without one the loader would draw from torch's own generator.
        generator=torch.Generator(),
    )
    for batch in loader:
        if batch.problem is not None:
            raise CellError(batch.problem, remedy=f"repair or remove it, then go on with {asked('resume')}")
        yield batch


class Watched(Iterator[HostBatch]):
    """Batches, and for how long whoever takes them has waited, in seconds (`waited`)."""

    def __init__(self, batches: Iterator[HostBatch]) -> None:
        self._batches, self.waited = batches, 0.0

    def __next__(self) -> HostBatch:
        """Returns the next batch."""
        start = time.monotonic()
        try:
            return next(self._batches)
        finally:
            self.waited += time.monotonic() - start


def check_images(split: ImageSplit, config: PretrainConfig, where: str) -> None:
    """Raises `RequestError` where the first images of a split cannot be read or are smaller than a patch."""
    if len(split) == 0:
        raise RequestError(f"{where}: no image in it: at least one batch of {config.batch_size} is needed")
    patch = patch_side(config.backbone)
    for index in range(min(_PROBED, len(split))):
        try:
            size = split.decode(split.encoded([index])[0]).size
        except Exception as error:  # PIL's plugins raise errors of every kind for damaged files
            raise RequestError(f"{where}: {split.locate(index)}: {Unreadable.of(error).what}") from None
        if min(size) < patch:
            raise RequestError(
                f"{where}: {split.locate(index)}: {size[0]} × {size[1]} pixels, smaller than a patch of {patch}"
            )


def _leave_signals_to_the_trainer(_: int) -> None:
    """Lets a worker outlive the signals of a scheduler or a terminal, which go to the whole process group.

    The trainer finishes its step and ends its workers; a worker notices within seconds where the trainer was killed.
    """
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    sys.excepthook = _without_broken_connections


def _without_broken_connections(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints what ended a thread of a worker, but for a batch that a trainer broke off because it was ending."""
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)


def _as_it_is(batch: Any) -> Any:
    return batch  # the dataset returns whole batches
