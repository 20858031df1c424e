"""Test splits that show the same images in several blocks, one after the other: under one corruption each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from massl_bench.core.errors import RequestError
from massl_bench.datasets.sampling import plain_rows
from massl_bench.datasets.splits import ImageSplit, JoinedSplit, SubsetSplit


def images_of_blocks(place: str, split: ImageSplit, names: Sequence[str]) -> int:
    """Returns how many images each block has; raises `RequestError` where they are not the same ones."""
    if isinstance(split, SubsetSplit):
        return len(split) // len(names)
    assert isinstance(split, JoinedSplit)
    starts = split.starts
    first = starts[1]
    for name, (start, end) in zip(names, pairwise(starts), strict=True):
        same = end - start == first
        if same and split.labels is not None:
            same = bool((split.labels[start:end] == split.labels[:first]).all())
        if not same:
            raise RequestError(
                f"{place}: {name} has {end - start:,} images, not the {first:,} of {names[0]} "
                "in the same order: the blocks must show the same images; unpack the archive again"
            )
    return first


def sampled_in_blocks(split: ImageSplit, count: int, seed: int) -> ImageSplit:
    """Returns the same drawn images of every block of a split; raises `RequestError` for a count of no whole blocks."""
    assert isinstance(split, JoinedSplit)
    starts = split.starts
    blocks = len(starts) - 1
    if count % blocks:
        near = max(1, round(count / blocks)) * blocks
        raise RequestError(
            f"the same images are drawn of each of the {blocks} blocks: expected a multiple of {blocks}",
            field="sample",
            found=f"test={count}",
            remedy=f"test={near}",
        )
    rows = plain_rows(starts[1], count // blocks, seed)
    return SubsetSplit(split, np.concatenate([rows + start for start in starts[:-1]]).tolist(), labelled=True)
