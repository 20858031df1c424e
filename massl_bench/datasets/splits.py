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

from massl_bench.errors import RequestError, one_line
from massl_bench.types import Preprocessing

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
    """Returns the image in RGB, decoded completely; raises what PIL raises for a damaged one."""
    if isinstance(encoded, DerivedImage):
        return encoded.render()
    if isinstance(encoded, np.ndarray):
        return Image.fromarray(encoded)
    with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
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


class ParquetSplit(ImageSplit):
    """Rows of parquet files, read one row group at a time and never converted."""

    def __init__(self, files: Sequence[Path], image_column: str, label_column: str | None) -> None:
        import pyarrow.parquet as pq

        self._files, self._image_column = list(files), image_column
        groups: list[tuple[int, int, int]] = []  # (file, row group, rows)
        labels: list[Any] = []
        names: tuple[str, ...] | None = None
        for number, path in enumerate(self._files):
            file = pq.ParquetFile(path)
            require_columns(path.name, file.schema_arrow.names, image_column, label_column)
            groups += [(number, g, file.metadata.row_group(g).num_rows) for g in range(file.num_row_groups)]
            if label_column is not None:
                labels.append(file.read(columns=[label_column])[label_column].to_numpy())
                names = names or _parquet_class_names(file.schema_arrow.metadata, label_column)
        self._groups = groups
        self._first_rows = np.cumsum([0, *(rows for _, _, rows in groups)])
        file_rows = np.bincount([number for number, _, _ in groups], [rows for _, _, rows in groups], len(self._files))
        self._file_first_rows = np.cumsum([0, *file_rows.astype(int)])
        self.labels, self.class_names = None, names
        if label_column is not None:
            self.labels, self.class_names = label_indices(np.concatenate(labels), names, label_column)
        self._held: tuple[int, Any] | None = None

    @override
    def __len__(self) -> int:
        return int(self._first_rows[-1])

    @override
    def encoded(self, indices: Sequence[int]) -> list[EncodedImage]:
        images: list[EncodedImage] = []
        for index in indices:
            group = int(np.searchsorted(self._first_rows, index, side="right")) - 1
            value = self._row_group(group)[index - int(self._first_rows[group])].as_py()
            images.append(encoded_value(value, self._files[self._groups[group][0]].parent))
        return images

    @override
    def for_any_order(self, cache_dir: Path) -> ImageSplit:
        # A row group is read as a whole: one is held, of several nearly every row would need another one.
        return self if len(self._groups) == 1 else ConvertedSplit(self, self._files, self._image_column, cache_dir)

    def _row_group(self, group: int) -> Any:
        if self._held is None or self._held[0] != group:
            import pyarrow.parquet as pq

            number, group_in_file, _ = self._groups[group]
            table = pq.ParquetFile(self._files[number]).read_row_group(group_in_file, columns=[self._image_column])
            self._held = (group, table[self._image_column])
        return self._held[1]

    @override
    def locate(self, index: int) -> str:
        number = int(np.searchsorted(self._file_first_rows, index, side="right")) - 1
        return f"{self._files[number].name}, row {index - int(self._file_first_rows[number])}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None}


class ConvertedSplit(ImageSplit):
    """The rows of parquet files as the `datasets` library keeps them: on disk, each row at its place."""

    def __init__(self, source: ParquetSplit, files: Sequence[Path], image_column: str, cache_dir: Path) -> None:
        from datasets import Dataset

        names = [str(path) for path in files]
        try:
            rows = Dataset.from_parquet(names, columns=[image_column], cache_dir=str(cache_dir / "arrow"))
        except Exception as error:  # the library raises errors of many kinds, a full disk among them
            raise RequestError(
                f"{files[0].parent}: parquet files are converted to be read in any order, which failed: "
                f"{one_line(error)}; make space, or choose another place with --cache-dir"
            ) from None
        self._source, self._rows = source, ArrowSplit(rows, files[0].parent.name, image_column, None, files[0].parent)
        self.labels, self.class_names = source.labels, source.class_names

    @override
    def __len__(self) -> int:
        return len(self._source)

    @override
    def encoded(self, indices: Sequence[int]) -> list[EncodedImage]:
        return self._rows.encoded(indices)

    @override
    def locate(self, index: int) -> str:
        return self._source.locate(index)


class ArrowSplit(ImageSplit):
    """A split of the `datasets` library: a saved directory, or a hub repository in any format that it knows."""

    def __init__(self, dataset: Any, name: str, image_column: str, label_column: str | None, root: Path) -> None:
        from datasets import Image as ImageFeature

        require_columns(name, dataset.column_names, image_column, label_column)
        self._name, self._root, self._image_column = name, root, image_column
        self.labels = self.class_names = None
        if label_column is not None:
            names = getattr(dataset.features[label_column], "names", None)
            values = np.asarray(dataset.with_format("numpy", columns=[label_column])[:][label_column])
            self.labels, self.class_names = label_indices(values, tuple(names) if names else None, label_column)
        images = dataset.select_columns([image_column])
        if isinstance(images.features[image_column], ImageFeature):
            images = images.cast_column(image_column, ImageFeature(decode=False))
        self._images = images.with_format("arrow")

    @override
    def __len__(self) -> int:
        return len(self._images)

    @override
    def encoded(self, indices: Sequence[int]) -> list[EncodedImage]:
        values = self._images[list(indices)][self._image_column].to_pylist()
        return [encoded_value(value, self._root) for value in values]

    @override
    def locate(self, index: int) -> str:
        return f"{self._name}, row {index}"


def require_columns(where: str, found: Sequence[str], image_column: str, label_column: str | None) -> None:
    """Raises `RequestError` where a column is not there."""
    for option, column in (("image", image_column), ("label", label_column)):
        if column is not None and column not in found:
            raise RequestError(
                f"{where}: no {option} column {column!r}; found: {', '.join(found)}; name it with --{option}-column"
            )


def encoded_value(value: Any, root: Path) -> EncodedImage:
    """Returns the image of one cell of an image column: bytes, a file name, or the hub's `{bytes, path}`."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return root / value
    return b""  # no image in this row: PIL refuses it, and the error names the row


def label_indices(
    values: NDArray[Any], names: tuple[str, ...] | None, column: str
) -> tuple[NDArray[np.int64], tuple[str, ...] | None]:
    """Returns labels as class indices, with the names where they are known; strings become indices in sorted order."""
    if np.issubdtype(values.dtype, np.integer):
        return values.astype(np.int64), names
    if values.dtype.kind in "OU" and all(isinstance(value, str) for value in values):
        classes, indices = np.unique(values.astype(str), return_inverse=True)
        return indices.astype(np.int64), tuple(classes.tolist())
    raise RequestError(f"label column {column!r}: expected whole numbers or strings without gaps, found {values.dtype}")


def _parquet_class_names(metadata: dict[bytes, bytes] | None, label_column: str) -> tuple[str, ...] | None:
    """Returns the class names that the hub's library leaves in the file's schema."""
    import json

    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(features[label_column]["names"])
    except (KeyError, TypeError, ValueError):
        return None
