"""The host's part of multi-crop views: decode, cut out and resize, in uint8; all colour is left to the device.

A batch is a function of the seed, the rank, the step and its piece alone, so that any number of worker processes, and a
run that was interrupted, see the same crops.

Shapes: B images, V views of one size, N = V·B crops (view-major), S side of a view.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from massl_bench.core.errors import MasslBenchError
from massl_bench.datasets import EncodedImage, ImageSplit, Unreadable, open_image
from massl_bench.datasets.images.crops import UNIFORMS, crop_boxes
from massl_bench.datasets.images.decoding import jpeg_pixels, turn_of
from massl_bench.datasets.images.integrity import JPEG_START
from massl_bench.pretrain.config import ViewsConfig
from massl_bench.pretrain.data.resampling import LARGEST_SIDE, resize_crops
from massl_bench.pretrain.data.views import Photometric, draw_photometric
from massl_bench.pretrain.seeds import seeded_generator

_RESIZE: Any = torch._C._nn._upsample_bicubic2d_aa
"""What `functional.interpolate` calls, which takes no `out`."""


@dataclass(frozen=True)
class BatchRequest:
    """Which images one rank needs at once: those of one piece of one step."""

    step: int
    piece: int
    indices: Sequence[int]


@dataclass
class CropGroup:
    """The crops of all views of one size, with what the device will do to each.

    Attributes:
        pixels: uint8 [V·B, 3, S, S], view-major; in memory the colours may be the innermost.
        photometric: for the same rows.
        num_views: V.
    """

    pixels: Tensor
    photometric: Photometric
    num_views: int


@dataclass
class HostBatch:
    """One piece of a batch, ready for the device; `problem` names a damaged image, in place of the crops."""

    groups: list[CropGroup]
    problem: str | None = None

    def pin_memory(self) -> HostBatch:
        """Lets the loader pin the pixels (it calls this by name)."""
        for group in self.groups:
            group.pixels = group.pixels.pin_memory()
        return self


class MultiCropImages(Dataset[Any]):
    """The images of a split, cut into random views."""

    def __init__(self, split: ImageSplit, views: ViewsConfig, *, seed: int, rank: int) -> None:
        self._split, self._views, self._seed, self._rank = split, views, seed, rank

    def __getitem__(self, request: BatchRequest) -> HostBatch:
        """Returns the views of one piece of a batch."""
        generator = seeded_generator(self._seed, "views", self._rank, request.step, request.piece)
        crops, count = self._views.crops, len(request.indices)
        sizes = [crop.size for crop in crops]
        uniform_VBU = torch.rand(len(crops), count, UNIFORMS, generator=generator).double().numpy()
        together = {size: _room_for(sizes.count(size), count, size) for size in {*sizes}}
        of_size = {size: iter(views_VN3SS) for size, views_VN3SS in together.items()}
        pixels = [next(of_size[size]) for size in sizes]
        small: dict[tuple[int, ...], list[tuple[int, NDArray[np.uint8]]]] = {}
        try:
            images = self._split.encoded(request.indices)
        except (OSError, MemoryError, MasslBenchError) as error:  # of the file that holds them
            return HostBatch([], f"{self._split.locate(request.indices[0])}: {Unreadable.of(error).what}")
        for row, encoded in enumerate(images):
            try:
                decoded = _decode(self._split, encoded, self._views, uniform_VBU[:, row])
                if max(*decoded.pixels_HW3.shape[:2], *sizes) <= LARGEST_SIDE:
                    small.setdefault(decoded.pixels_HW3.shape, []).append((row, decoded.pixels_HW3))
                else:
                    _cut(decoded, [view[row] for view in pixels])
            except Exception as error:  # PIL's plugins raise errors of every kind for damaged files
                return HostBatch([], f"{self._split.locate(request.indices[row])}: {Unreadable.of(error).what}")
        for alike in small.values():
            rows = np.array([row for row, _ in alike])
            _cut_together(np.stack([image for _, image in alike]), self._views, uniform_VBU[:, rows], rows, pixels)
        groups = []
        for size in dict.fromkeys(sizes):
            members = [view for view, each in enumerate(sizes) if each == size]
            photometric = [draw_photometric(self._views, crops[view], count, generator) for view in members]
            groups.append(CropGroup(together[size].flatten(0, 1), Photometric.cat(photometric), len(members)))
        return HostBatch(groups)


def _room_for(num_views: int, count: int, size: int) -> Tensor:
    """Returns uint8 [V, B, 3, S, S]: for large views with the colours of a pixel side by side, as they are resized."""
    if size <= LARGEST_SIDE:
        return torch.empty(num_views, count, 3, size, size, dtype=torch.uint8)
    return torch.empty(num_views, count, size, size, 3, dtype=torch.uint8).permute(0, 1, 4, 2, 3)


@dataclass(frozen=True)
class _Decoded:
    """An image, and the boxes of its views.

    Attributes:
        pixels_HW3: maybe at a reduced size.
        boxes_V4: in these pixels, made when they are asked for: of small images, all are made together.
    """

    pixels_HW3: NDArray[np.uint8]
    boxes_V4: Callable[[], NDArray[np.int64]]


def _cut(decoded: _Decoded, out: Sequence[Tensor]) -> None:
    """Fills one image's views, each uint8 [3, S, S]."""
    image_3HW = torch.from_numpy(np.require(decoded.pixels_HW3, requirements="W")).permute(2, 0, 1)
    for view, (left, top, width, height) in zip(out, decoded.boxes_V4().tolist(), strict=True):
        crop = image_3HW[None, :, top : top + height, left : left + width]
        # PIL's antialiased bicubic filter in fixed point, three times as fast as PIL; values differ by two at most.
        _RESIZE(crop, view.shape[-2:], False, None, None, out=view[None])


def _cut_together(
    images_NHW3: NDArray[np.uint8],
    views: ViewsConfig,
    uniform_VNU: NDArray[np.float64],
    rows_N: NDArray[np.int64],
    out: Sequence[Tensor],
) -> None:
    """Fills the views of small images of one size: the same bytes as one after the other, and few calls."""
    num_views, count, _ = uniform_VNU.shape
    scales_x2 = np.repeat(_scales(views), count, axis=0)
    height, width = images_NHW3.shape[1:3]
    boxes_x4 = crop_boxes(width, height, scales_x2, views.ratio, uniform_VNU.reshape(num_views * count, -1))
    boxes_VN4, rows = boxes_x4.reshape(num_views, count, 4), torch.from_numpy(rows_N)
    for size in {view.shape[-1] for view in out}:
        members = [number for number, view in enumerate(out) if view.shape[-1] == size]
        for number, resized in zip(members, resize_crops(images_NHW3, boxes_VN4[members], size), strict=True):
            out[number][rows] = resized


def _scales(views: ViewsConfig) -> NDArray[np.float64]:
    return np.array([crop.scale for crop in views.crops])


def _decode(split: ImageSplit, encoded: EncodedImage, views: ViewsConfig, uniform_VU: NDArray[np.float64]) -> _Decoded:
    """Returns an image with the boxes of its views, decoded at reduced size where that loses nothing.

    A JPEG decoder can leave out high frequencies and return the image at a half, a quarter or an eighth; it is asked to
    as long as every crop is still at least as large as its view.
    """

    def boxes_in(width: int, height: int) -> NDArray[np.int64]:
        return crop_boxes(width, height, _scales(views), views.ratio, uniform_VU)

    def whole(pixels_HW3: NDArray[np.uint8]) -> _Decoded:
        return _Decoded(pixels_HW3, lambda: boxes_in(pixels_HW3.shape[1], pixels_HW3.shape[0]))

    if not isinstance(encoded, (bytes, Path)):
        return whole(encoded if isinstance(encoded, np.ndarray) else np.asarray(split.decode(encoded)))
    if isinstance(encoded, bytes) and not encoded.startswith(JPEG_START):
        return whole(np.asarray(split.decode(encoded)))
    with open_image(encoded, split.decoding) as image:
        width, height = image.size
        changed = split.decoding.border or (split.decoding.upright and turn_of(image) is not None)
        if changed or image.format != "JPEG":
            return whole(np.asarray(split.decode(encoded)))
        boxes_V4 = boxes_in(width, height)
        sizes_V = np.array([crop.size for crop in views.crops])
        smallest = float((boxes_V4[:, 2:].min(1) / sizes_V).min())
        if smallest < 2:
            pixels_HW3 = jpeg_pixels(image, split.decoding)
            if pixels_HW3 is None:
                pixels_HW3 = np.asarray(split.decode(encoded))
            return _Decoded(pixels_HW3, lambda: boxes_V4)
        reduction = 1 << min(3, int(math.log2(smallest)))
        image.draft("RGB", (math.ceil(width / reduction), math.ceil(height / reduction)))
        pixels_HW3 = np.asarray(image.convert("RGB"))
    factors_4 = np.tile([pixels_HW3.shape[1] / width, pixels_HW3.shape[0] / height], 2)
    reduced_V4 = np.maximum(np.rint(boxes_V4 * factors_4).astype(np.int64), [0, 0, 1, 1])
    return _Decoded(pixels_HW3, lambda: reduced_V4)
