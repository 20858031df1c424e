"""Images decoded and prepared for encoders, whole batches at a time. B images of a batch, G of one size, S side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from massl_bench.core.errors import MasslBenchError
from massl_bench.core.settings import Preprocessing
from massl_bench.datasets import ORIENTED, EncodedImage, ImageSplit, Unreadable
from massl_bench.datasets.images.preprocess import apply_preprocessing

_Pixels = NDArray[np.uint8] | list[NDArray[np.uint8] | None]
"""Of the images of a batch: [B, 3, S, S], or each by itself where they are not cropped to one size."""


@dataclass
class Batch:
    """The images of some items that could be prepared, those of one size together, and why others could not."""

    groups: list[tuple[list[int], Tensor]]
    """(places in `kept`, uint8 [G, 3, H, W])"""
    kept: list[int]
    problems: list[tuple[int, Unreadable]] = field(default_factory=list)
    oriented: int = 0
    """How many of the files say that they have to be turned."""

    def __len__(self) -> int:
        """Returns the number of images, prepared or not."""
        return len(self.kept) + len(self.problems)

    def in_order(self, features_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the features of the groups, one group after the other, in the order of `kept`."""
        ordered_BD = np.empty_like(features_BD)
        ordered_BD[[place for places, _ in self.groups for place in places]] = features_BD
        return ordered_BD

    def pin_memory(self) -> Batch:
        """Lets the loader pin the pixels (it calls this by name)."""
        self.groups = [(places, pixels.pin_memory()) for places, pixels in self.groups]
        return self


class _Prepared:
    """What becomes of the images of a batch in one way; threads fill it, each its own rows."""

    def __init__(self, side: int | None, count: int) -> None:
        self.pixels: _Pixels = [None] * count if side is None else np.empty((count, 3, side, side), dtype=np.uint8)
        self.reasons: dict[int, Unreadable] = {}
        """Why others could not be decoded or prepared, by row."""

    def batch(self, indices: Sequence[int], oriented: int) -> Batch:
        kept_rows = [row for row in range(len(indices)) if row not in self.reasons]
        return Batch(
            _grouped(self.pixels, kept_rows),
            [indices[row] for row in kept_rows],
            [(indices[row], why) for row, why in sorted(self.reasons.items())],
            oriented,
        )


class PreparedImages(Dataset[Any]):
    """Decodes whole batches, and prepares each image in one way or in several.

    Large images are decoded fastest by one thread a core. Small ones spend their time in the interpreter, where threads
    wait for each other (half the speed on CIFAR's 32 × 32): the first batches try both ways, the rest takes the faster.
    """

    def __init__(self, split: ImageSplit, ways: Sequence[Preprocessing], max_threads: int) -> None:
        self._split, self._ways = split, ways
        # The first batch of each trial only warms up.
        self._trials = [1, 1, max_threads, max_threads] if max_threads > 1 else []
        self._seconds_per_image: dict[int, float] = {}
        self._pool = ThreadPoolExecutor(max_threads) if max_threads > 1 else None
        self._oriented: list[None] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None, "_trials": [], "_seconds_per_image": {}}

    @property
    def bytes_each(self) -> int:
        """How much memory an image takes, at most (where images are not cropped: were it square)."""
        return sum(3 * (way.crop or way.resize) ** 2 for way in self._ways)

    def item(self, key: Any) -> int:
        """Returns which item of the split a key of the sampler asks for."""
        return int(key)

    def prepared(self, image: Image.Image, key: Any, way: Preprocessing) -> NDArray[np.uint8]:
        """Returns what an encoder sees of an item, uint8 [3, H, W]; raises what PIL raises for a damaged image."""
        if way.query_box:
            image = image.crop(self._box(self.item(key)))
        return apply_preprocessing(image, way)

    def decoded(self, encoded: EncodedImage) -> Image.Image:
        """Returns an image of the split in RGB; counts those whose files say that they have to be turned."""
        image = self._split.decode(encoded)
        if image.info.get(ORIENTED):
            self._oriented.append(None)  # threads append at once, and none is lost
        return image

    def __getitems__(self, keys: list[Any]) -> list[Batch]:
        """Returns the batch of some items in each way."""
        indices = [self.item(key) for key in keys]
        try:
            encoded = self._split.encoded(indices)
        except (OSError, MemoryError, MasslBenchError) as error:  # of the file that holds them
            # Returned: what a loader's process raises arrives as the text of its traceback.
            return [Batch([], [], [(index, Unreadable.of(error)) for index in indices]) for _ in self._ways]
        prepared = [_Prepared(way.crop, len(indices)) for way in self._ways]
        self._oriented.clear()

        def prepare(rows: Sequence[int]) -> None:
            for row in rows:
                try:
                    image = self.decoded(encoded[row])
                except Exception as error:  # PIL's plugins raise errors of every kind for damaged files
                    for each in prepared:
                        each.reasons[row] = Unreadable.of(error)
                    continue
                for way, each in zip(self._ways, prepared, strict=True):
                    try:
                        each.pixels[row] = self.prepared(image, keys[row], way)
                    except Exception as error:
                        each.reasons[row] = Unreadable.of(error)

        if self._trials:
            num_threads = self._trials.pop(0)
        else:
            num_threads = min(self._seconds_per_image, key=self._seconds_per_image.__getitem__, default=1)
        start = time.perf_counter()
        if self._pool is None or num_threads == 1:
            prepare(range(len(indices)))
        else:
            list(self._pool.map(prepare, [range(thread, len(indices), num_threads) for thread in range(num_threads)]))
        self._seconds_per_image[num_threads] = (time.perf_counter() - start) / len(indices)
        return [each.batch(indices, len(self._oriented)) for each in prepared]

    def _box(self, index: int) -> tuple[float, float, float, float]:
        assert self._split.boxes is not None
        left, top, right, bottom = self._split.boxes[index].tolist()
        return left, top, right, bottom


def _grouped(pixels: _Pixels, rows: list[int]) -> list[tuple[list[int], Tensor]]:
    """Returns (places in `rows`, pixels [G, 3, H, W]) for each size of image, in the order of their first images."""
    if isinstance(pixels, np.ndarray):
        whole = pixels if len(rows) == len(pixels) else pixels[rows]
        return [([*range(len(rows))], torch.from_numpy(whole))] if rows else []
    places_of_size: dict[tuple[int, ...], list[int]] = {}
    found = [image for image in (pixels[row] for row in rows) if image is not None]
    for place, image in enumerate(found):
        places_of_size.setdefault(image.shape, []).append(place)
    return [
        (places, torch.from_numpy(np.stack([found[place] for place in places]))) for places in places_of_size.values()
    ]
