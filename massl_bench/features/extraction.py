"""Images through encoders. Shapes: B images of a batch, G of them of one size, S side of the crop, D features."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from massl_bench.core.devices import memory_kept
from massl_bench.core.errors import CellError, RequestError, one_line
from massl_bench.core.settings import Precision, Preprocessing
from massl_bench.core.wording import asked
from massl_bench.datasets import ImageSplit, check_boxes
from massl_bench.features.loading import images_at_a_time, load_images
from massl_bench.features.options import ExtractionOptions
from massl_bench.features.prepared import Batch, PreparedImages
from massl_bench.models.encoder import Encoder
from massl_bench.models.networks.sharing import computed_once

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


@dataclass(frozen=True, kw_only=True)
class Target:
    """Features that are made of images.

    Attributes:
        encoder: on the device where it should run.
        preprocessing: what is done to the images; its mean and std must be the encoder's.
        deliver: takes each piece.
        give_up: called where something goes wrong with these features, and those of the other targets go on; None
            where nobody could do without them.
    """

    encoder: Encoder
    preprocessing: Preprocessing
    deliver: Callable[[Extracted], None]
    give_up: Callable[[], None] | None = None


def extract(
    targets: Sequence[Target],
    split: ImageSplit,
    options: ExtractionOptions,
    *,
    pieces: Iterable[range],
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Delivers features of consecutive items of a split, one piece after the other, in their order.

    Each image is decoded once for all targets, is resized and cropped once for those that see the same of it, and goes
    once through what their networks have in common. What is made is, to the bit, what each target alone would get.

    Args:
        targets: of one device; the first is one that cannot be given up.
        split: the images.
        options: batch size, workers, precision, and what happens to corrupt images.
        pieces: the items of each piece, not empty; asked for ahead of the piece that is being computed, so that loader
            processes always have something to do.
        progress: called with the number of images done since the last call.

    Raises:
        CellError: An image cannot be decoded (and is not to be skipped), or a feature is not finite (both name the
            item), or an encoder does not take images of another size than its own.
        RequestError: Queries are to be cropped to their boxes, and the split has none.
    """
    makings = [_Making(target) for target in targets]
    for making in makings:
        with making.attempt():
            check_boxes(split, making.target.preprocessing)
    started: deque[range] = deque()
    device, num_done = targets[0].encoder.device.type, 0
    with numerics(options.precision, device), memory_kept(device):
        for taken in _one_behind(makings, _load(makings, split, options, pieces, started)):
            for making, batch, features in taken:
                with making.attempt():
                    making.take(split, batch, features, options)
            number = len(taken[0][1])
            num_done += number
            progress(number)
            if num_done == len(started[0]):
                items, num_done = started.popleft(), 0
                for making in makings:
                    with making.attempt():
                        making.deliver(items)


class _Making:
    """The features of one target while they are made: of the piece that is at hand, what there is so far."""

    def __init__(self, target: Target) -> None:
        self.target, self.required, self.goes_on = target, target.give_up is None, True
        self.scales, self.dim = target.preprocessing.scales, target.encoder.card.embed_dim
        self.way = target.preprocessing.model_copy(update={"scales": (1.0,)})
        """What is done to an image before it goes through the network at each scale."""
        self._begin()

    def _begin(self) -> None:
        self._features = [np.empty((0, self.dim), np.float32)]
        self._kept, self._skipped, self._num_oriented = list[int](), list[str](), 0

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Gives the target up where the block fails, or raises where it is required."""
        try:
            yield
        except Exception:
            if self.required:
                raise
            self.give_up()

    def give_up(self) -> None:
        """Leaves these features to whoever wants them alone, unless they are required."""
        if self.goes_on and self.target.give_up is not None:
            self.goes_on = False
            self.target.give_up()

    def take(self, split: ImageSplit, batch: Batch, features: Tensor, options: ExtractionOptions) -> None:
        """Takes the features of a batch [B, D], in the order of its groups; raises `CellError` where one is broken."""
        if not self.goes_on:
            return
        self._skipped += _left_out(split, batch, options)
        self._num_oriented += batch.oriented
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
        self._features.append(features_BD)
        self._kept += batch.kept

    def deliver(self, items: range) -> None:
        """Delivers the piece, and begins another."""
        if not self.goes_on:
            return
        piece = Extracted(
            items=items,
            features=np.concatenate(self._features),
            kept=np.array(self._kept, dtype=np.int64),
            skipped=self._skipped,
            num_oriented=self._num_oriented,
        )
        self._begin()
        self.target.deliver(piece)


def _load(
    makings: Sequence[_Making],
    split: ImageSplit,
    options: ExtractionOptions,
    pieces: Iterable[range],
    started: deque[range],
) -> Iterator[dict[Preprocessing, Batch]]:
    """Yields batches, prepared in each way that somebody wants; `started` are the pieces that were begun."""
    device = makings[0].target.encoder.device
    size = images_at_a_time(options, device)
    while True:
        ways = list(dict.fromkeys(making.way for making in makings if making.goes_on))
        images, batches = partial(PreparedImages, split, ways), _batches(pieces, started, size)
        try:
            loader = load_images(images, batches, math.ceil(len(split) / size), options, device)
            break
        except RequestError:  # no room for as many images
            last = [making for making in makings if making.way == ways[-1]]
            if any(making.required for making in last):
                raise
            for making in last:
                making.give_up()
    for prepared in loader:
        yield dict(zip(ways, prepared, strict=True))


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


_Taken = list[tuple[_Making, Batch, Tensor]]
"""A batch, and what is made of it for each target: features [B, D], in the order of the batch's groups."""


def _one_behind(makings: Sequence[_Making], loaded: Iterable[Mapping[Preprocessing, Batch]]) -> Iterator[_Taken]:
    """Yields each batch with its features after the next one was queued: a GPU never waits for the caller."""
    queued: _Taken | None = None
    for batches in loaded:
        taken = [each for way, batch in batches.items() for each in _of_batch(makings, way, batch)]
        if queued is not None:
            yield queued
        queued = taken
    if queued is not None:
        yield queued


def _of_batch(makings: Iterable[_Making], way: Preprocessing, batch: Batch) -> _Taken:
    """Returns the features of images that were prepared in a way, for all who want that."""
    seeing = [making for making in makings if making.way == way and making.goes_on]
    required = [making for making in seeing if making.required]
    try:
        return _through_networks(seeing, batch)
    except Exception:
        if required == seeing:
            raise
        for making in seeing:
            making.give_up()
    # Out of the handler, which keeps alive what was there when it failed, maybe for want of memory.
    return _through_networks(required, batch)


def _through_networks(makings: Sequence[_Making], batch: Batch) -> _Taken:
    """Raises what the networks of required features raise, and what is of no single network."""
    if not makings:
        return []
    encoder = makings[0].target.encoder
    parts = {making: [torch.empty(0, making.dim, device=encoder.device)] for making in makings}
    for _, pixels in batch.groups:
        images = encoder.normalise(pixels.to(encoder.device, non_blocking=True))
        for making, features in _summed_over_scales(makings, images).items():
            parts[making].append(features)
    return [(making, batch, torch.cat(parts[making])) for making in makings if making.goes_on]


def _summed_over_scales(makings: Iterable[_Making], images_G3HW: Tensor) -> dict[_Making, Tensor]:
    """Returns the sum of the features of the images at each scale, [G, D] (DINO's `multi_scale`, without its norm)."""
    found: dict[_Making, dict[float, Tensor]] = {making: {} for making in makings if making.goes_on}
    for scale in dict.fromkeys(scale for making in found for scale in making.scales):
        scaled = images_G3HW
        if scale != 1.0:
            scaled = functional.interpolate(images_G3HW, scale_factor=scale, mode="bilinear", align_corners=False)
        asking = [making for making in found if scale in making.scales and making.goes_on]
        with computed_once([making.target.encoder.network for making in asking]):
            for making in asking:
                with making.attempt():
                    found[making][scale] = _features(making.target.encoder, scaled)
    return {
        making: reduce(torch.add, [of_scale[scale] for scale in making.scales])
        for making, of_scale in found.items()
        if making.goes_on
    }


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
