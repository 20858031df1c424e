"""Small crops that are resized together are torch's, to the byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from massl_bench.datasets.splits import ArraySplit
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.data import crops
from massl_bench.pretrain.data.crops import BatchRequest, MultiCropImages
from massl_bench.pretrain.data.resampling import LARGEST_SIDE, resize_crops


def one_by_one(images: Any, boxes: Any, side: int) -> Tensor:
    found = []
    for image, (left, top, width, height) in zip(images, boxes, strict=True):
        crop = torch.from_numpy(image).permute(2, 0, 1)[None, :, top : top + height, left : left + width]
        found.append(functional.interpolate(crop, size=(side, side), mode="bicubic", antialias=True)[0])
    return torch.stack(found)


@given(sides=st.tuples(*[st.integers(1, LARGEST_SIDE)] * 3), seed=st.integers(0, 2**32 - 1), extremes=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_bytes_of_torch(sides: tuple[int, int, int], seed: int, extremes: bool) -> None:
    height, width, side = sides
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (7, height, width, 3), dtype=np.uint8)
    if extremes:  # the largest sums, and what is cut off at 0 and 255
        images = np.where(images > 127, np.uint8(255), np.uint8(0))
    sizes = np.stack([rng.integers(1, width + 1, 7), rng.integers(1, height + 1, 7)], axis=1)
    places = (rng.random((7, 2)) * (np.array([width, height]) - sizes + 1)).astype(np.int64)
    boxes = np.concatenate([places, sizes], axis=1)
    twice = np.stack([boxes, boxes[::-1]])
    found = resize_crops(images, twice, side)
    assert torch.equal(found[0], one_by_one(images, boxes, side))
    assert torch.equal(found[1], one_by_one(images, boxes[::-1], side))


@pytest.mark.parametrize("shapes", [[(32, 32)] * 9, [(32, 32), (30, 32), (32, 32), (60, 50), (30, 32)]])
def test_batches_are_the_same_either_way(shapes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of several sizes in one batch, one of them too large to be worked on together."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    split = ArraySplit("x", np.zeros((len(images), 1, 1, 3), np.uint8), None, None)
    monkeypatch.setattr(split, "encoded", lambda indices: [images[index] for index in indices])
    views = load_config("small-cifar10").views
    request = BatchRequest(3, 0, range(len(images)))
    together = MultiCropImages(split, views, seed=1, rank=0)[request]
    monkeypatch.setattr(crops, "LARGEST_SIDE", 0)
    alone = MultiCropImages(split, views, seed=1, rank=0)[request]
    for one, other in zip(together.groups, alone.groups, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.photometric.factors, other.photometric.factors)
