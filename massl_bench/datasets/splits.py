"""One split of a dataset: labels, ids and encoded images, in the dataset's order.

The splits are read in batches and, in a loader with workers, pickled: they hold paths and small tables, and open files
when they are first read.
"""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import override

from massl_bench.core.errors import RequestError
from massl_bench.core.printable import printable
from massl_bench.core.settings import Preprocessing
from massl_bench.datasets.images.decoding import STORED, Decoding, EncodedImage, Unreadable, decode_mask, decode_rgb

_CHECKED_TOGETHER = 256

Labels = NDArray[np.int64] | NDArray[np.int8]
"""Class indices, int64 [N]; or int8 [N, C] with 1 present, 0 only difficult, −1 absent."""


class ImageSplit(ABC):
    """The items of one split.

    Attributes:
        labels: int64 [N] class indices; int8 [N, C] with 1 present, 0 only difficult, −1 absent; or None.
        class_names: the names that the source itself carries, in label order, or None.
        boxes: float64 [N, 4], left, top, right and bottom of what each image is about, in pixels; or None.
        decoding: how the images are decoded.
        masked: whether each image has a mask.
    """

    labels: Labels | None
    class_names: tuple[str, ...] | None
    boxes: NDArray[np.float64] | None = None
    decoding: Decoding = STORED
    masked: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of items."""

    @abstractmethod
    def encoded(self, indices: Sequence[int]) -> list[EncodedImage]:
        """Returns the encoded images of some items; consecutive ones are read together."""

    def mask(self, index: int) -> Image.Image:
        """Returns the classes of an item's pixels, an image of one channel; raises what PIL raises for a damaged file.

        Raises:
            RequestError: The split has no masks.
        """
        raise RequestError(f"{self.locate(index)}: no mask: this is no segmentation dataset")

    @abstractmethod
    def locate(self, index: int) -> str:
        """Returns where an item lies, for people: the file, and the row where a file holds many."""

    def name(self, index: int) -> str:
        """Returns what tells an item from the others, as its place of storage has it: not always fit to be printed."""
        return self.locate(index)

    def decode(self, encoded: EncodedImage) -> Image.Image:
        """Returns one of the encoded images in RGB; raises what `decode_rgb` raises."""
        return decode_rgb(encoded, self.decoding)

    def for_any_order(self, cache_dir: Path) -> ImageSplit:
        """Returns the same items, quick to read in any order; a converted copy may be kept in `cache_dir`.

        Raises:
            RequestError: They cannot be converted.
        """
        return self

    def ids(self, count: int) -> NDArray[np.bytes_]:
        """Returns the names of the first `count` items as bytes [count]: UTF-8, where they are that on the disk."""
        return np.array(
            [self.name(index).encode("utf-8", "surrogateescape") for index in range(count)], dtype=np.bytes_
        )


def check_boxes(split: ImageSplit, preprocessing: Preprocessing) -> None:
    """Raises `RequestError` where images are to be cropped to boxes that the split does not have."""
    if preprocessing.query_box and split.boxes is None:
        raise RequestError(
            f"queries are to be cropped to their boxes, and these have none (the first: {split.locate(0)}); "
            "take a task without the box, as in retrieval for retrieval-box"
        )


def corrupt_images(split: ImageSplit, progress: Callable[[int], None] = lambda _: None) -> list[str]:
    """Decodes every image of a split, and its mask; returns where those lie that cannot be, with the reason."""

    def problem(index: int, encoded: EncodedImage) -> str | None:
        try:
            split.decode(encoded)
            if split.masked:
                split.mask(index)
        except Exception as error:  # PIL's plugins raise errors of every kind for damaged files
            return Unreadable.of(error).what
        return None

    problems = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(split), _CHECKED_TOGETHER):
            indices = range(start, min(start + _CHECKED_TOGETHER, len(split)))
            found = zip(indices, pool.map(problem, indices, split.encoded(indices)), strict=True)
            problems += [f"{split.locate(index)}: {text}" for index, text in found if text is not None]
            progress(len(indices))
    return problems


class ArraySplit(ImageSplit):
    """Pixels in memory, uint8 [N, H, W, 3]."""

    def __init__(
        self,
        name: str,
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int64] | None,
        class_names: tuple[str, ...] | None,
    ) -> None:
        self._name, self._pixels, self.labels, self.class_names = name, pixels, labels, class_names

    @override
    def __len__(self) -> int:
        return len(self._pixels)

    @override
    def encoded(self, indices: Sequence[int]) -> list[EncodedImage]:
        return [self._pixels[index] for index in indices]

    @override
    def locate(self, index: int) -> str:
        return f"{self._name}, row {index}"


class FileSplit(ImageSplit):
    """One file an image."""

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        labels: Labels | None,
        class_names: tuple[str, ...] | None,
        boxes: NDArray[np.float64] | None = None,
        masks: Sequence[str] | None = None,
    ) -> None:
        self._masks, self.masked = list(masks) if masks is not None else None, masks is not None
        self._root, self._files, self.labels, self.class_names = root, list(files), labels, class_names
        self.boxes = boxes

    @override
    def __len__(self) -> int:
        return len(self._files)

    @override
    def encoded(self, indices: Sequence[int]) -> list[EncodedImage]:
        return [self._root / self._files[index] for index in indices]

    @override
    def mask(self, index: int) -> Image.Image:
        if self._masks is None:
            return super().mask(index)
        # Not in RGB: the values of a palette image are the classes, and its colours are for people.
        return decode_mask(self._root / self._masks[index])

    @override
    def locate(self, index: int) -> str:
        return printable(self._files[index])

    @override
    def name(self, index: int) -> str:
        return self._files[index]


class SubsetSplit(ImageSplit):
    """Some items of another split.

    Args:
        whole: the other split.
        rows: which of its items, in their order here.
        labelled: whether labels and boxes are taken along.
    """

    def __init__(self, whole: ImageSplit, rows: Sequence[int], *, labelled: bool = False) -> None:
        self._whole, self._rows, self.decoding = whole, [int(row) for row in rows], whole.decoding
        self.masked = whole.masked
        self.labels = self.class_names = None
        if labelled:
            self.class_names = whole.class_names
            self.labels = whole.labels[self._rows] if whole.labels is not None else None
            self.boxes = whole.boxes[self._rows] if whole.boxes is not None else None

    @property
    def whole(self) -> ImageSplit:
        """The split that these are items of."""
        return self._whole

    @property
    def rows(self) -> list[int]:
        """Which items of the whole these are."""
        return self._rows

    @override
    def __len__(self) -> int:
        return len(self._rows)

    @override
    def encoded(self, indices: Sequence[int]) -> list[EncodedImage]:
        return self._whole.encoded([self._rows[index] for index in indices])

    @override
    def mask(self, index: int) -> Image.Image:
        return self._whole.mask(self._rows[index])

    @override
    def locate(self, index: int) -> str:
        return self._whole.locate(self._rows[index])

    @override
    def name(self, index: int) -> str:
        return self._whole.name(self._rows[index])

    @override
    def for_any_order(self, cache_dir: Path) -> ImageSplit:
        # The labels are those of the rows already; the whole may be a part of a table that is read in order.
        ready = copy.copy(self)
        ready._whole = self._whole.for_any_order(cache_dir)
        return ready


class JoinedSplit(ImageSplit):
    """Several splits, one after the other: `train + val`.

    Raises:
        RequestError: They have other class names, so that one label would mean two things, or only some of them have
            labels or boxes.
    """

    def __init__(self, parts: Sequence[ImageSplit]) -> None:
        self._parts, self.decoding = list(parts), parts[0].decoding
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.class_names, self.masked = parts[0].class_names, all(part.masked for part in parts)
        if any(part.class_names != self.class_names for part in parts):
            raise RequestError("the parts of this split have different class names: their labels cannot be joined")
        labels: list[NDArray[Any]] = [part.labels for part in parts if part.labels is not None]
        if labels and len(labels) != len(self._parts):
            raise RequestError("only some parts of this split have labels")
        self.labels = np.concatenate(labels) if labels else None
        boxes = [part.boxes for part in parts if part.boxes is not None]
        if boxes and len(boxes) != len(self._parts):
            raise RequestError("only some parts of this split have boxes")
        self.boxes = np.concatenate(boxes) if boxes else None

    @property
    def starts(self) -> list[int]:
        """The first row of each part, then the number of rows."""
        return [int(start) for start in self._starts]

    @override
    def __len__(self) -> int:
        return int(self._starts[-1])

    def _part(self, index: int) -> int:
        return int(np.searchsorted(self._starts, index, side="right")) - 1

    @override
    def encoded(self, indices: Sequence[int]) -> list[EncodedImage]:
        images: list[EncodedImage] = []
        for number, group in itertools.groupby(indices, key=self._part):
            images += self._parts[number].encoded([index - int(self._starts[number]) for index in group])
        return images

    @override
    def mask(self, index: int) -> Image.Image:
        number = self._part(index)
        return self._parts[number].mask(index - int(self._starts[number]))

    @override
    def for_any_order(self, cache_dir: Path) -> ImageSplit:
        joined = JoinedSplit([part.for_any_order(cache_dir) for part in self._parts])
        joined.decoding = self.decoding
        return joined

    @override
    def locate(self, index: int) -> str:
        number = self._part(index)
        return self._parts[number].locate(index - int(self._starts[number]))

    @override
    def name(self, index: int) -> str:
        number = self._part(index)
        return self._parts[number].name(index - int(self._starts[number]))
