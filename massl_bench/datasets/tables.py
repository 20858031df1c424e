"""Splits that are tables: parquet files, and what the `datasets` library keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from massl_bench.core.errors import RequestError, one_line
from massl_bench.datasets.images.decoding import EncodedImage
from massl_bench.datasets.splits import ImageSplit


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
            path = self._files[number]
            try:
                table = pq.ParquetFile(path).read_row_group(group_in_file, columns=[self._image_column])
            except (OSError, ValueError) as error:  # pyarrow's errors of damaged files derive from these
                raise RequestError(
                    f"{path}: row group {group_in_file} cannot be read: {one_line(error)}; copy or fetch the file again"
                ) from None
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
