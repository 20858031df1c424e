"""Images through an encoder. Shapes: B images of a batch, G of them of one size, S side of the crop, D features.

On a GPU, worker processes decode ahead while the device computes. On the CPU decoding and the network would only
compete for the same cores, so they take turns: a batch is decoded by one thread a core, then the network has all of
them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from massl_bench.core.devices import available_cores, check_shared_memory, memory_kept
from massl_bench.core.errors import CellError, RequestError, one_line
from massl_bench.core.settings import Precision, Preprocessing
from massl_bench.core.wording import asked
from massl_bench.datasets import ImageSplit, check_boxes
from massl_bench.features.options import ExtractionOptions
from massl_bench.features.prepared import Batch, PreparedImages
from massl_bench.models.encoder import Encoder

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """What became of some consecutive images of a split.

    Attributes:
        items: which images.
        features: of those that were kept, float32 [n, D].
        kept: the items that the features are of, int64 [n].
        skipped: those left out as corrupt, and why.
        num_oriented: how many files have an EXIF orientation that is not upright.
    """

    items: range
    features: NDArray[np.float32]
    kept: NDArray[np.int64]
    skipped: list[str]
    num_oriented: int


def extract(
    encoder: Encoder,
    split: ImageSplit,
    preprocessing: Preprocessing,
    options: ExtractionOptions,
    *,
    pieces: Iterable[range],
    deliver: Callable[[Extracted], None],
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Delivers the features of consecutive items of a split, one piece after the other, in their order.

    Args:
        encoder: on the device where it should run.
        split: the images.
        preprocessing: what is done to them; its mean and std must be the encoder's.
        options: batch size, workers, precision, and what happens to corrupt images.
        pieces: the items of each piece, not empty; asked for ahead of the piece that is being computed, so that loader
            processes always have something to do.
        deliver: takes each piece.
        progress: called with the number of images done since the last call.

    Raises:
        CellError: An image cannot be decoded (and is not to be skipped), or a feature is not finite (both name the
            item), or the encoder does not take images of another size than its own.
        RequestError: Queries are to be cropped to their boxes, and the split has none.
    """
    check_boxes(split, preprocessing)
    started: deque[range] = deque()
    size = images_at_a_time(options, encoder.device)
    images = partial(PreparedImages, split, preprocessing)
    loader = load_images(images, _batches(pieces, started, size), math.ceil(len(split) / size), options, encoder.device)
    piece = _Piece(encoder.card.embed_dim)
    with numerics(options.precision, encoder.device.type), memory_kept(encoder.device.type):
        for batch, features in _one_behind(encoder, loader, preprocessing.scales):
            piece.skipped += _left_out(split, batch, options)
            piece.num_oriented += batch.oriented
            features_BD = batch.in_order(features.cpu().numpy())
            finite_B = np.isfinite(features_BD).all(axis=1)
            if not finite_B.all():
                first = split.locate(batch.kept[int(np.flatnonzero(~finite_B)[0])])
                other = "" if options.precision == "fp32" else f", or use {asked('precision', 'fp32')}"
                raise CellError(
                    f"{int((~finite_B).sum())} of {len(features_BD)} features in its batch are not finite",
                    where=first,
                    remedy=f"check the weights{other}",
                )
            piece.features.append(features_BD)
            piece.kept += batch.kept
            progress(len(batch.kept) + len(batch.problems))
            if len(piece) == len(started[0]):
                deliver(piece.whole(started.popleft()))
                piece = _Piece(encoder.card.embed_dim)


@dataclass
class _Piece:
    """A piece that is being computed."""

    dim: int
    features: list[NDArray[np.float32]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    num_oriented: int = 0

    def __len__(self) -> int:
        return len(self.kept) + len(self.skipped)

    def whole(self, items: range) -> Extracted:
        return Extracted(
            items=items,
            features=np.concatenate([np.empty((0, self.dim), np.float32), *self.features]),
            kept=np.array(self.kept, dtype=np.int64),
            skipped=self.skipped,
            num_oriented=self.num_oriented,
        )


def _batches(pieces: Iterable[range], started: deque[range], size: int) -> Iterator[list[int]]:
    """Yields batches, none of which is of two pieces: then a piece is the same whoever computes it, and after what."""
    for piece in pieces:
        started.append(piece)
        for start in range(piece.start, piece.stop, size):
            yield list(range(start, min(start + size, piece.stop)))


def _left_out(split: ImageSplit, batch: Batch, options: ExtractionOptions) -> list[str]:
    """Returns the images of a batch that are left out, and why; raises `CellError` where none may be."""
    skipped = []
    for index, problem in batch.problems:
        image = split.locate(index)
        if not (problem.damaged and options.skip_corrupt):
            raise problem.error(image, f", or count it out with {asked('skip_corrupt')}" if problem.damaged else "")
        skipped.append(f"{image}: {problem.what}")
    return skipped


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


def _one_behind(encoder: Encoder, loader: DataLoader[Any], scales: tuple[float, ...]) -> Iterator[tuple[Batch, Tensor]]:
    """Yields each batch with its features [B, D] after the next one was queued: a GPU never waits for the caller.

    The features are in the order of the batch's groups.
    """
    queued: tuple[Batch, Tensor] | None = None
    for batch in loader:
        parts = [torch.empty(0, encoder.card.embed_dim, device=encoder.device)]
        for _, pixels in batch.groups:
            images = encoder.normalise(pixels.to(encoder.device, non_blocking=True))
            parts.append(_summed_over_scales(encoder, images, scales))
        features = torch.cat(parts)
        if queued is not None:
            yield queued
        queued = batch, features
    if queued is not None:
        yield queued


def _summed_over_scales(encoder: Encoder, images_G3HW: Tensor, scales: tuple[float, ...]) -> Tensor:
    """Returns the sum of the features of the images at each scale, [G, D] (DINO's `multi_scale`, without its norm)."""
    features = []
    for scale in scales:
        scaled = images_G3HW
        if scale != 1.0:
            scaled = functional.interpolate(images_G3HW, scale_factor=scale, mode="bilinear", align_corners=False)
        features.append(_features(encoder, scaled))
    return reduce(torch.add, features)


def _features(encoder: Encoder, images_G3HW: Tensor) -> Tensor:
    """Returns features [G, D]; raises `CellError` where the encoder does not take images of this size."""
    height, width = images_G3HW.shape[-2:]
    own = encoder.card.preprocessing.crop
    reason = ""
    try:
        features = encoder(images_G3HW)
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError, ValueError) as error:
        if (height, width) == (own, own):
            raise
        reason = one_line(error)
    else:
        if features.shape == (len(images_G3HW), encoder.card.embed_dim):
            return features
        reason = f"its features have the shape {list(features.shape[1:])}, expected [{encoder.card.embed_dim}]"
    raise CellError(
        f"model {encoder.card.name} does not take images of {height} × {width} pixels, as the task needs them (its own "
        f"are {own} × {own}): {reason}; take a convolutional network, or a ViT from a checkpoint file"
    )


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
