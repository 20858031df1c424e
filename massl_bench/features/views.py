"""Augmented training views through an encoder, for protocols that train on more than one frozen bank.

A view is a function of the plan's seed, the epoch and the item alone, and the order of an epoch of the seed and the
epoch: neither worker processes nor the number of images at a time change what is drawn.

Shapes: n items of an epoch, B images of a training batch, D feature dimensions, U random numbers behind a box.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import override

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.settings import JitteredAugmentation, Preprocessing
from massl_bench.core.values import ViewBatch, ViewPlan
from massl_bench.core.wording import asked
from massl_bench.datasets import ImageSplit
from massl_bench.datasets.images.crops import UNIFORMS, crop_boxes
from massl_bench.datasets.images.preprocess import cut_view, jitter_view
from massl_bench.features.banks import Reporting
from massl_bench.features.extraction import numerics
from massl_bench.features.loading import images_at_a_time, load_images
from massl_bench.features.options import ExtractionOptions
from massl_bench.features.prepared import Batch, PreparedImages
from massl_bench.models.encoder import Encoder

# What the random numbers are for: the first word after the seed.
_VIEWS, _ORDER, _COLOURS = 0, 1, 2

_Key = tuple[int, int]
"""(epoch, item)."""


class EncodedViews:
    """The training split of a dataset, seen through an encoder in augmented views.

    Attributes:
        labels: of the items, as in a bank.
        class_names: in label order, where they are known.
        validation_from: the first item of the publisher's validation part, where there is one.
        seconds: that images and the encoder have taken so far.
        num_seen: views that went through the encoder so far.
    """

    def __init__(  # noqa: PLR0913  # where the images are, and what is done to them
        self,
        encoder: Encoder,
        split: ImageSplit,
        preprocessing: Preprocessing,
        options: ExtractionOptions,
        *,
        label: str,
        limit: int | None,
        reporting: Reporting,
        validation_from: int | None = None,
    ) -> None:
        """Opens nothing.

        Args:
            encoder: on the device where it should run.
            split: the images.
            preprocessing: its crop is the side of the views; its resize is not used.
            options: images at a time, workers, precision.
            label: what the progress is called.
            limit: only the first items of the split.
            reporting: where the progress goes.
            validation_from: the first item of the publisher's validation part, where the split ends with one.

        Raises:
            RequestError: The split has no labels.
        """
        self._split = split
        self.labels = self._labels_of(label, limit)
        self.class_names = split.class_names
        there = validation_from is not None and validation_from < len(self.labels)
        self.validation_from = validation_from if there else None
        self.seconds, self.num_seen = 0.0, 0
        self._encoder, self._preprocessing, self._options = encoder, preprocessing, options
        self._label, self._reporting = label, reporting

    def _labels_of(self, label: str, limit: int | None) -> NDArray[Any]:
        if self._split.labels is None:
            raise RequestError(f"{label}: no labels: there is nothing to train on")
        return self._split.labels[:limit]

    def __len__(self) -> int:
        """Returns the number of items."""
        return len(self.labels)

    def epochs(self, plan: ViewPlan) -> Iterator[Iterator[ViewBatch]]:
        """Yields the batches of one epoch after the other; each epoch must be read to its end.

        Raises:
            CellError: An image cannot be decoded, or a feature is not finite; names the item.
        """
        pieces = _Pieces(plan, images_at_a_time(self._options, self._encoder.device))
        images = partial(AugmentedImages, self._split, self._preprocessing, plan)
        loader = load_images(images, pieces, pieces.per_epoch * plan.num_epochs, self._options, self._encoder.device)
        loaded = iter(loader)
        for epoch in range(plan.num_epochs):
            yield self._batches(plan, epoch, pieces, loaded)

    def plain(self, rows: NDArray[np.int64]) -> Iterator[ViewBatch]:
        """Yields the features of items under the preprocessing alone, as many at a time as the device takes.

        Raises:
            CellError: As `epochs`.
        """
        batches = _cut(rows, images_at_a_time(self._options, self._encoder.device))
        keys = [piece.tolist() for piece in batches]
        images = partial(PreparedImages, self._split, [self._preprocessing])
        loader = iter(load_images(images, keys, len(keys), self._options, self._encoder.device))
        with self._reporting.progress(f"{self._label}, as they are", len(rows)) as progress:
            for piece in batches:
                start = time.perf_counter()
                features = self._encoded(next(loader), progress)
                self.seconds += time.perf_counter() - start
                self.num_seen += len(piece)
                yield ViewBatch(features=features, rows=piece)

    def _batches(
        self, plan: ViewPlan, epoch: int, pieces: _Pieces, loaded: Iterator[list[Batch]]
    ) -> Iterator[ViewBatch]:
        label = f"{self._label}, epoch {epoch + 1} of {plan.num_epochs}"
        with self._reporting.progress(label, len(plan.rows)) as progress:
            for rows_B in pieces.batches(epoch):
                start = time.perf_counter()
                features = [self._encoded(next(loaded), progress) for _ in pieces.cut(rows_B)]
                self.seconds += time.perf_counter() - start
                self.num_seen += len(rows_B)
                yield ViewBatch(features=np.concatenate(features), rows=rows_B)

    def _encoded(self, batches: list[Batch], progress: Callable[[int], None]) -> NDArray[np.float32]:
        """Returns the features of one piece, float32 [b, D]."""
        (batch,) = batches  # the images are prepared in one way
        if batch.problems:
            index, problem = batch.problems[0]
            skip = f": {asked('skip_corrupt')} does not apply to images that are trained on" if problem.damaged else ""
            raise problem.error(self._split.locate(index), skip)
        # Only around the encoder: the protocol's own arithmetic is not the features'.
        with numerics(self._options.precision, self._encoder.device.type):
            ((_, pixels_b3SS),) = batch.groups  # all views are of one size
            images = pixels_b3SS.to(self._encoder.device, non_blocking=True)
            features_bD: NDArray[np.float32] = self._encoder(self._encoder.normalise(images)).cpu().numpy()
        finite_b = np.isfinite(features_bD).reshape(len(features_bD), -1).all(axis=1)
        if not finite_b.all():
            first = self._split.locate(batch.kept[int(finite_b.argmin())])
            raise CellError(f"{first}: a feature of an augmented view is not finite; check the weights")
        progress(len(features_bD))
        return features_bD


class AugmentedImages(PreparedImages):
    """Decodes images and cuts their views; the keys are (epoch, item)."""

    def __init__(self, split: ImageSplit, preprocessing: Preprocessing, plan: ViewPlan, max_threads: int) -> None:
        super().__init__(split, [preprocessing], max_threads)
        self._plan = plan

    @override
    def item(self, key: _Key) -> int:
        return key[1]

    @override
    def prepared(self, image: Image.Image, key: _Key, way: Preprocessing) -> NDArray[np.uint8]:
        assert way.crop is not None  # only tasks without augmentation leave images uncropped
        box, mirrored = view_of(self._plan, key, image.width, image.height)
        drawn = self._plan.augmentation
        view_3SS = cut_view(image, box, way.crop, drawn.crop_interpolation, mirrored=mirrored)
        if not isinstance(drawn, JitteredAugmentation):
            return view_3SS
        uniform_8 = np.random.default_rng([self._plan.seed, _COLOURS, *key]).random(8)
        return jitter_view(view_3SS, drawn.jitter, drawn.jitter_probability, uniform_8)


def view_of(plan: ViewPlan, key: _Key, width: int, height: int) -> tuple[list[int], bool]:
    """Returns the view of an (epoch, item): left, top, width and height of its box, and whether it is mirrored."""
    uniform_U = np.random.default_rng([plan.seed, _VIEWS, *key]).random(UNIFORMS + 1)
    scale_12, ratio = np.array([plan.augmentation.crop_scale]), plan.augmentation.crop_ratio
    box_14 = crop_boxes(width, height, scale_12, ratio, uniform_U[None, :-1])
    return box_14[0].tolist(), bool(uniform_U[-1] < plan.augmentation.flip_probability)


class _Pieces:
    """The items of all epochs in order, cut into training batches, and these into pieces that fit the device."""

    def __init__(self, plan: ViewPlan, size: int) -> None:
        self._plan, self._size = plan, size

    def __iter__(self) -> Iterator[list[_Key]]:
        """Yields the keys of each piece, epoch by epoch."""
        for epoch in range(self._plan.num_epochs):
            for rows_B in self.batches(epoch):
                for piece in self.cut(rows_B):
                    yield [(epoch, int(row)) for row in piece]

    @property
    def per_epoch(self) -> int:
        """The number of pieces of an epoch."""
        return sum(len(self.cut(rows_B)) for rows_B in self.batches(0))

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Returns the training batches of an epoch."""
        order_n = np.random.default_rng([self._plan.seed, _ORDER, epoch]).permutation(self._plan.rows)
        return _cut(order_n, self._plan.batch_size)

    def cut(self, rows_B: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Returns the pieces of a training batch."""
        return _cut(rows_B, self._size)


def _cut(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
