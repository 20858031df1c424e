"""The host's part of multi-crop views: decode, cut out and resize, in uint8; all colour is left to the device.

A batch is a function of the seed, the rank, the step and its piece alone, so that any number of worker processes, and a
run that was interrupted, see the same crops.

Shapes: B images, V views of one size, N = V·B crops (view-major), S side of a view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from massl_bench.core.errors import MasslBenchError
from massl_bench.datasets import EncodedImage, ImageSplit, Unreadable, open_image
from massl_bench.datasets.images.crops import UNIFORMS, crop_boxes
from massl_bench.datasets.images.decoding import turn_of
from massl_bench.pretrain.config import ViewsConfig
from massl_bench.pretrain.data.views import Photometric, draw_photometric
from massl_bench.pretrain.seeds import seeded_generator


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
        pixels: uint8 [V·B, 3, S, S], view-major.
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
        crops = self._views.crops
        sizes = [crop.size for crop in crops]
        uniform_VB = torch.rand(len(crops), len(request.indices), UNIFORMS, generator=generator).double().numpy()
        pixels = [torch.empty(len(request.indices), 3, size, size, dtype=torch.uint8) for size in sizes]
        try:
            images = self._split.encoded(request.indices)
        except (OSError, MemoryError, MasslBenchError) as error:  # of the file that holds them
            return HostBatch([], f"{self._split.locate(request.indices[0])}: {Unreadable.of(error).what}")
        for row, encoded in enumerate(images):
            try:
                _cut(self._split, encoded, self._views, uniform_VB[:, row], [view[row] for view in pixels])
            except Exception as error:  # PIL's plugins raise errors of every kind for damaged files
                return HostBatch([], f"{self._split.locate(request.indices[row])}: {Unreadable.of(error).what}")
        groups = []
        for size in dict.fromkeys(sizes):
            members = [view for view, each in enumerate(sizes) if each == size]
            photometric = [
                draw_photometric(self._views, crops[view], len(request.indices), generator) for view in members
            ]
            groups.append(
                CropGroup(torch.cat([pixels[view] for view in members]), Photometric.cat(photometric), len(members))
            )
        return HostBatch(groups)


def _cut(
    split: ImageSplit,
    encoded: EncodedImage,
    views: ViewsConfig,
    uniform_VU: NDArray[np.float64],
    out: Sequence[Tensor],
) -> None:
    """Fills one image's views, each uint8 [3, S, S]."""
    scales_V2 = np.array([crop.scale for crop in views.crops])
    if isinstance(encoded, (bytes, Path)):
        pixels_HW3, boxes_V4 = _decode(split, encoded, views, scales_V2, uniform_VU)
    else:
        pixels_HW3 = encoded if isinstance(encoded, np.ndarray) else np.asarray(split.decode(encoded))
        boxes_V4 = crop_boxes(pixels_HW3.shape[1], pixels_HW3.shape[0], scales_V2, views.ratio, uniform_VU)
    image_3HW = torch.from_numpy(np.array(pixels_HW3)).permute(2, 0, 1)
    for view, (left, top, width, height) in zip(out, boxes_V4.tolist(), strict=True):
        crop = image_3HW[None, :, top : top + height, left : left + width]
        # PIL's antialiased bicubic filter in fixed point, three times as fast as PIL; values differ by two at most.
        size = (view.shape[-2], view.shape[-1])
        view.copy_(functional.interpolate(crop, size=size, mode="bicubic", antialias=True)[0])


def _decode(
    split: ImageSplit,
    encoded: bytes | Path,
    views: ViewsConfig,
    scales_V2: NDArray[np.float64],
    uniform_VU: NDArray[np.float64],
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Returns the pixels [H, W, 3] of a file and the boxes in them, decoded at reduced size where that loses nothing.

    A JPEG decoder can leave out high frequencies and return the image at a half, a quarter or an eighth; it is asked to
    as long as every crop is still at least as large as its view.
    """
    with open_image(encoded, split.decoding) as image:
        if split.decoding.upright and turn_of(image) is not None:
            upright_HW3 = np.asarray(split.decode(encoded))
            sides = upright_HW3.shape[1], upright_HW3.shape[0]
            return upright_HW3, crop_boxes(*sides, scales_V2, views.ratio, uniform_VU)
        width, height = image.size
        boxes_V4 = crop_boxes(width, height, scales_V2, views.ratio, uniform_VU)
        sizes_V = np.array([crop.size for crop in views.crops])
        smallest = float((boxes_V4[:, 2:].min(1) / sizes_V).min())
        if image.format != "JPEG" or smallest < 2:
            return np.asarray(split.decode(encoded)), boxes_V4
        reduction = 1 << min(3, int(math.log2(smallest)))
        image.draft("RGB", (math.ceil(width / reduction), math.ceil(height / reduction)))
        pixels_HW3 = np.asarray(image.convert("RGB"))
    factors_4 = np.tile([pixels_HW3.shape[1] / width, pixels_HW3.shape[0] / height], 2)
    return pixels_HW3, np.maximum(np.rint(boxes_V4 * factors_4).astype(np.int64), [0, 0, 1, 1])
