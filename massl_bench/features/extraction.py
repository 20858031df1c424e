"""Images through an encoder. Shapes: B images of a batch, S side of the crop, D feature dimensions.

On a GPU, worker processes decode ahead while the device computes. On the CPU decoding and the network would only
compete
for the same cores, so they take turns: a batch is decoded by one thread a core, then the network has all of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from massl_bench.datasets import EncodedImage, ImageSplit, decode_rgb
from massl_bench.errors import CellError, one_line
from massl_bench.features.cache import BankWriter
from massl_bench.features.options import ExtractionOptions
from massl_bench.models.encoder import Encoder
from massl_bench.transforms import apply_preprocessing
from massl_bench.types import Precision, Preprocessing

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Batch:
    """The images of some items that could be decoded, and the reasons why others could not."""

    pixels_B3SS: Tensor
    kept: list[int]
    problems: list[tuple[int, str]] = field(default_factory=list)

    def pin_memory(self) -> Batch:
        """Lets the loader pin the pixels (it calls this by name)."""
        self.pixels_B3SS = self.pixels_B3SS.pin_memory()
        return self


class PreparedImages(Dataset[Any]):
    """Decodes and crops whole batches.

    Large images are decoded fastest by one thread a core. Small ones spend their time in the interpreter, where threads
    wait for each other (half the speed on CIFAR's 32 × 32): the first batches try both ways, the rest takes the faster.
    """

    def __init__(self, split: ImageSplit, preprocessing: Preprocessing, max_threads: int) -> None:
        self._split, self._preprocessing = split, preprocessing
        # The first batch of each trial only warms up.
        self._trials = [1, 1, max_threads, max_threads] if max_threads > 1 else []
        self._seconds_per_image: dict[int, float] = {}
        self._pool = ThreadPoolExecutor(max_threads) if max_threads > 1 else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None, "_trials": [], "_seconds_per_image": {}}

    def item(self, key: Any) -> int:
        """Returns which item of the split a key of the sampler asks for."""
        return int(key)

    def pixels(self, encoded: EncodedImage, key: Any) -> NDArray[np.uint8]:
        """Returns what the encoder sees of an item, uint8 [3, S, S]; raises what PIL raises for a damaged image."""
        return apply_preprocessing(decode_rgb(encoded), self._preprocessing)

    def __getitems__(self, keys: list[Any]) -> Batch:
        indices = [self.item(key) for key in keys]
        encoded = self._split.encoded(indices)
        side = self._preprocessing.crop
        pixels_B3SS = np.empty((len(indices), 3, side, side), dtype=np.uint8)

        def prepare(rows: range) -> dict[int, str]:
            """Fills some rows; returns why others could not be decoded."""
            reasons = {}
            for row in rows:
                try:
                    pixels_B3SS[row] = self.pixels(encoded[row], keys[row])
                except Exception as error:  # PIL's plugins raise errors of every kind for damaged files
                    reasons[row] = one_line(error)
            return reasons

        if self._trials:
            num_threads = self._trials.pop(0)
        else:
            num_threads = min(self._seconds_per_image, key=self._seconds_per_image.__getitem__, default=1)
        start = time.perf_counter()
        if self._pool is None or num_threads == 1:
            reasons = prepare(range(len(indices)))
        else:
            pieces = [range(thread, len(indices), num_threads) for thread in range(num_threads)]
            reasons = {row: why for part in self._pool.map(prepare, pieces) for row, why in part.items()}
        self._seconds_per_image[num_threads] = (time.perf_counter() - start) / len(indices)
        kept_rows = [row for row in range(len(indices)) if row not in reasons]
        if reasons:
            pixels_B3SS = pixels_B3SS[kept_rows]
        return Batch(
            torch.from_numpy(pixels_B3SS),
            [indices[row] for row in kept_rows],
            [(indices[row], why) for row, why in sorted(reasons.items())],
        )


def extract(
    encoder: Encoder,
    split: ImageSplit,
    preprocessing: Preprocessing,
    options: ExtractionOptions,
    *,
    writer: BankWriter,
    limit: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[list[int], list[str]]:
    """Writes the features of a split, in its order.

    Args:
        encoder: on the device where it should run.
        split: the images.
        preprocessing: what is done to them; its mean and std must be the encoder's.
        options: batch size, workers, precision, and what happens to corrupt images.
        writer: takes the features of each batch, float32 [B, D].
        limit: only the first items.
        progress: called with the number of images done since the last call.

    Returns:
        (indices of the items that were written, descriptions of those skipped as corrupt).

    Raises:
        CellError: An image cannot be decoded (and is not to be skipped), or a feature is not finite; names the item.
    """
    count = len(split) if limit is None else min(limit, len(split))
    batches = _consecutive(count, images_at_a_time(options, encoder.device))
    images = partial(PreparedImages, split, preprocessing)
    loader = load_images(images, batches, len(batches), options, encoder.device)
    kept: list[int] = []
    skipped: list[str] = []
    with numerics(options.precision, encoder.device.type):
        for batch, features in _one_behind(encoder, loader):
            for index, problem in batch.problems:
                where = f"{split.locate(index)}: corrupt image: {problem}"
                if not options.skip_corrupt:
                    raise CellError(f"{where}; repair or remove it, or count it out with --skip-corrupt")
                skipped.append(where)
            features_BD = features.cpu().numpy()
            finite_B = np.isfinite(features_BD).all(axis=1)
            if not finite_B.all():
                first = split.locate(batch.kept[int(np.flatnonzero(~finite_B)[0])])
                raise CellError(
                    f"{first}: {int((~finite_B).sum())} of {len(finite_B)} features in its batch are not finite; "
                    f"check the weights{'' if options.precision == 'fp32' else ', or use --precision fp32'}"
                )
            writer.append(features_BD)
            kept += batch.kept
            progress(len(batch.kept) + len(batch.problems))
    if not kept:
        raise CellError(f"no image could be decoded; the first: {skipped[0]}")
    return kept, skipped


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
    cores = _available_cores()
    num_workers = options.num_workers if options.num_workers is not None else (cores if on_gpu else 0)
    num_workers = min(num_workers, num_batches)
    return DataLoader(
        images(1 if num_workers else cores),
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        pin_memory=on_gpu,
        prefetch_factor=4 if num_workers else None,
    )


def _one_behind(encoder: Encoder, loader: DataLoader[Any]) -> Iterator[tuple[Batch, Tensor]]:
    """Yields each batch with its features [B, D] after the next one was queued: a GPU never waits for the caller."""
    queued: tuple[Batch, Tensor] | None = None
    for batch in loader:
        if batch.kept:
            images = batch.pixels_B3SS.to(encoder.device, non_blocking=True)
            features = encoder(encoder.normalise(images))
        else:
            features = torch.empty(0, encoder.card.embed_dim)
        if queued is not None:
            yield queued
        queued = batch, features
    if queued is not None:
        yield queued


def _available_cores() -> int:
    """Returns the cores that this process may use, which a scheduler can make fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _consecutive(count: int, batch_size: int) -> list[list[int]]:
    """Returns the batches: every item exactly once, in order, the last batch possibly smaller."""
    return [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]


def _as_it_is(batch: Any) -> Any:
    return batch  # the dataset returns whole batches


@contextmanager
def numerics(precision: Precision, device_type: str) -> Iterator[None]:
    """Sets TF32 and autocast to what `precision` says, and back: neither is on for fp32, whatever torch's defaults."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        with torch.autocast(device_type, dtype=_AUTOCAST.get(precision), enabled=precision in _AUTOCAST):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
