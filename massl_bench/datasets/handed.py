"""Images that a Python user holds: a map-style dataset of torch, one of the datasets library, or any sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import override

from massl_bench.core.errors import RequestError
from massl_bench.datasets.images.decoding import EncodedImage
from massl_bench.datasets.splits import ImageSplit

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "coarse_label")


class HandedSplit(ImageSplit):
    """The items of a sequence, each an image or (image, label); a row of the datasets library is a mapping.

    An image is a PIL image or its pixels, uint8 [H, W, 3] or [H, W]. Labels are read with the images, item by item, and
    are known when all were read.

    Args:
        items: the sequence; only its length is asked for here.
        image_column: of rows that are mappings; None: the one that is called `image` or `img`.
        label_column: likewise; None: `label`, or no labels.

    Raises:
        RequestError: It has no length, or its rows have no such column.
    """

    labels = None

    def __init__(self, items: Any, *, image_column: str | None = None, label_column: str | None = None) -> None:
        if not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
            raise RequestError(
                f"dataset: expected items with a length (a map-style dataset), found {type(items).__name__}; "
                "list(dataset) makes a list of a stream"
            )
        self._items = items
        self._found: dict[int, Any] = {}
        columns = list(getattr(items, "column_names", None) or ())
        self._image = _column("image_column", image_column, columns, _IMAGE_COLUMNS, needed=True)
        self._label = _column("label_column", label_column, columns, _LABEL_COLUMNS, needed=False)
        self.class_names = _class_names(items, self._label)

    @override
    def __len__(self) -> int:
        return len(self._items)

    @override
    def encoded(self, indices: Sequence[int]) -> list[EncodedImage]:
        return [self._pixels(index) for index in indices]

    @override
    def locate(self, index: int) -> str:
        return f"item {index}"

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        item = self._items[index]
        image, label = item, None
        if isinstance(item, Mapping):
            image = item[self._image] if self._image in item else next(iter(item.values()))
            label = item.get(self._label) if self._label is not None else None
        elif isinstance(item, tuple | list) and len(item) == 2:
            image, label = item
        if label is not None:
            self._found[index] = label
        return _pixels(image, index)

    def labels_of(self, kept: Sequence[int]) -> NDArray[Any] | None:
        """Returns the labels of items that were read, as they are; None where no item has one.

        Raises:
            RequestError: Some items have a label, and others have none.
        """
        if not self._found:
            return None
        lacking = [index for index in kept if index not in self._found]
        if lacking:
            raise RequestError(f"dataset: item {lacking[0]} has no label, and others have one")
        labels = np.asarray([np.asarray(self._found[index]) for index in kept])
        if labels.dtype == object:
            raise RequestError(
                f"dataset: expected whole numbers or words as labels, found {self._found[kept[0]]!r:.80}"
            )
        return labels


def _pixels(image: Any, index: int) -> NDArray[np.uint8]:
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if hasattr(image, "detach"):
        raise RequestError(
            f"dataset: item {index} is a tensor {list(image.shape)}: leave the dataset's transform out "
            "(transform=None), for the encoder prepares the images as it was trained to see them"
        )
    pixels = np.asarray(image)
    if pixels.dtype == np.uint8 and pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise RequestError(
            f"dataset: item {index}: expected a PIL image or uint8 [H, W, 3], found {type(image).__name__} of "
            f"{pixels.dtype} {list(pixels.shape)}"
        )
    return pixels


def _column(
    argument: str, given: str | None, columns: Sequence[str], usual: Sequence[str], *, needed: bool
) -> str | None:
    if given is not None:
        if given not in columns:
            raise RequestError(f"{argument}={given!r}: no such column; found {', '.join(columns) or 'none'}")
        return given
    found = [name for name in usual if name in columns]
    if len(found) > 1:
        raise RequestError(f"{argument}: {' and '.join(found)} are there: say which")
    if columns and needed and not found:
        raise RequestError(f"{argument}: none is called {' or '.join(usual)}; say which of {', '.join(columns)}")
    return found[0] if found else None


def _class_names(items: Any, label_column: str | None) -> tuple[str, ...] | None:
    """Returns the names that the items say of themselves: torchvision's `classes`, or those of a `ClassLabel`."""
    names = getattr(items, "classes", None)
    features = getattr(items, "features", None)
    if names is None and label_column is not None and isinstance(features, Mapping):
        names = getattr(features[label_column], "names", None)
    if isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(each, str) for each in names):
        return tuple(names)
    return None
