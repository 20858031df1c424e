"""One split of a dataset: labels, ids and encoded images, in the dataset's order.

The splits are read in batches and, in a loader with workers, pickled: they hold paths and small tables, and open files
when they are first read.
"""

from __future__ import annotations

import io
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

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.settings import Preprocessing

_CHECKED_TOGETHER = 256

Labels = NDArray[np.int64] | NDArray[np.int8]
"""Class indices, int64 [N]; or int8 [N, C] with 1 present, 0 only difficult, −1 absent."""


class DerivedImage(ABC):
    """An image that is made of another one, each time that it is decoded."""

    @abstractmethod
    def render(self) -> Image.Image:
        """Returns the image in RGB; raises what PIL raises where the other one is damaged."""


EncodedImage = bytes | Path | NDArray[np.uint8] | DerivedImage
"""A file's content, a file, pixels [H, W, 3], or what is made of one of them."""


def decode_rgb(encoded: EncodedImage) -> Image.Image:
    """Returns the image in RGB, decoded completely; transparency is left out.

    Of 16-bit values the high byte is taken, as PIL does for colours (it clips grey ones).

    Raises:
        ValueError: The pixels have 32 bits, of which nothing says what is white.
        Exception: What PIL raises for a damaged image, which can be anything.
    """
    if isinstance(encoded, DerivedImage):
        return encoded.render()
    if isinstance(encoded, np.ndarray):
        return Image.fromarray(encoded)
    with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
        if image.mode == "P" and "transparency" in image.info:
            return image.convert("RGBA").convert("RGB")  # the same pixels; directly, PIL warns
        # The formats whose grey values have 16 bits at most, wherever PIL gives them as 32.
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        if image.mode in ("I", "F"):
            raise ValueError("32-bit pixels have no defined range; save it with 8 or 16 bits")
        return image.convert("RGB")


class ImageSplit(ABC):
    """The items of one split.

    Attributes:
        labels: int64 [N] class indices; int8 [N, C] with 1 present, 0 only difficult, −1 absent; or None.
        class_names: the names that the source itself carries, in label order, or None.
        boxes: float64 [N, 4], left, top, right and bottom of what each image is about, in pixels; or None.
    """

    labels: Labels | None
    class_names: tuple[str, ...] | None
    boxes: NDArray[np.float64] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of items."""

    @abstractmethod
    def encoded(self, indices: Sequence[int]) -> list[EncodedImage]:
        """Returns the encoded images of some items; consecutive ones are read together."""

    @abstractmethod
    def locate(self, index: int) -> str:
        """Returns where an item lies, for people: the file, and the row where a file holds many."""

    def for_any_order(self, cache_dir: Path) -> ImageSplit:
        """Returns the same items, quick to read in any order; a converted copy may be kept in `cache_dir`.

        Raises:
            RequestError: They cannot be converted.
        """
        return self

    def ids(self, count: int) -> NDArray[np.bytes_]:
        """Returns the locations of the first `count` items as UTF-8 bytes [count]."""
        return np.array([self.locate(index).encode() for index in range(count)], dtype=np.bytes_)


def check_boxes(split: ImageSplit, preprocessing: Preprocessing) -> None:
    """Raises `RequestError` where images are to be cropped to boxes that the split does not have."""
    if preprocessing.query_box and split.boxes is None:
        raise RequestError(
            f"queries are to be cropped to their boxes, and these have none (the first: {split.locate(0)}); "
            "take a task without the box, as in retrieval for retrieval-box"
        )


def corrupt_images(split: ImageSplit, progress: Callable[[int], None] = lambda _: None) -> list[str]:
    """Decodes every image of a split; returns where the damaged ones lie, with the reason."""

    def problem(encoded: EncodedImage) -> str | None:
        try:
            decode_rgb(encoded)
        except Exception as error:  # PIL's plugins raise errors of every kind for damaged files
            return one_line(error)
        return None

    problems = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(split), _CHECKED_TOGETHER):
            indices = range(start, min(start + _CHECKED_TOGETHER, len(split)))
            found = zip(indices, pool.map(problem, split.encoded(indices)), strict=True)
            problems += [f"{split.locate(index)}: corrupt image: {text}" for index, text in found if text is not None]
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
    ) -> None:
        self._root, self._files, self.labels, self.class_names = root, list(files), labels, class_names
        self.boxes = boxes

    @override
    def __len__(self) -> int:
        return len(self._files)

    @override
    def encoded(self, indices: Sequence[int]) -> list[EncodedImage]:
        return [self._root / self._files[index] for index in indices]

    @override
    def locate(self, index: int) -> str:
        return self._files[index]


class SubsetSplit(ImageSplit):
    """Some items of another split without labels.

    Args:
        whole: the other split.
        rows: which of its items, in their order here.
    """

    def __init__(self, whole: ImageSplit, rows: Sequence[int]) -> None:
        self._whole, self._rows = whole, list(rows)
        self.labels = self.class_names = None

    @override
    def __len__(self) -> int:
        return len(self._rows)

    @override
    def encoded(self, indices: Sequence[int]) -> list[EncodedImage]:
        return self._whole.encoded([self._rows[index] for index in indices])

    @override
    def locate(self, index: int) -> str:
        return self._whole.locate(self._rows[index])


class JoinedSplit(ImageSplit):
    """Several splits, one after the other: `train + val`.

    Raises:
        RequestError: They have other class names, so that one label would mean two things, or only some of them have
            labels or boxes.
    """

    def __init__(self, parts: Sequence[ImageSplit]) -> None:
        self._parts = list(parts)
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.class_names = parts[0].class_names
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
    def for_any_order(self, cache_dir: Path) -> ImageSplit:
        return JoinedSplit([part.for_any_order(cache_dir) for part in self._parts])

    @override
    def locate(self, index: int) -> str:
        number = self._part(index)
        return self._parts[number].locate(index - int(self._starts[number]))
