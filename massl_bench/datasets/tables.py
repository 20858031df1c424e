"""Splits that are tables: parquet files, and what the `datasets` library keeps."""

from __future__ import annotations

import os.path
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import open_regular, sha256_of, stat_signature
from massl_bench.core.printable import printable
from massl_bench.core.wording import asked
from massl_bench.datasets.images.decoding import EncodedImage
from massl_bench.datasets.parquet_footer import read_row_groups
from massl_bench.datasets.splits import ImageSplit
from massl_bench.datasets.table_labels import aligned, label_indices, label_values, parquet_class_names

_HELD_BYTES = 256 << 20
"""Of the images of a row group that are held in memory; a group that is larger is read piece by piece."""
_PIECE_BYTES = 128 << 20
"""A piece is at most so large, whatever a value may stand for: a dictionary holds a value once for all its rows."""


@contextmanager
def reading(path: Path, what: str = "it") -> Iterator[None]:
    """Makes one error of all that pyarrow raises for damaged files: its own, Python's, and running out of memory."""
    try:
        yield
    except RequestError:
        raise
    except MemoryError:
        raise RequestError(f"{printable(path)}: {what} needs more memory than there is") from None
    except Exception as error:
        raise RequestError(
            f"{printable(path)}: {what} cannot be read: {one_line(error)}; copy or fetch the file again"
        ) from None


def open_parquet(path: Path, what: str = "it") -> Any:
    """Returns an opened parquet file, whose counts fit its size; `what` is what the error says cannot be read.

    Raises:
        RequestError: It is damaged, or no file.
    """
    import pyarrow.parquet as pq

    with reading(path, what):
        open_regular(path).close()  # pyarrow would wait for a pipe
        file = pq.ParquetFile(path)
        size = path.stat().st_size
        if file.metadata.num_rows > size:
            raise ValueError(f"it declares {file.metadata.num_rows:,} rows in {size:,} bytes")
        return file


class ParquetSplit(ImageSplit):
    """Rows of parquet files, read in order, a piece of a row group at a time, and never converted."""

    def __init__(self, files: Sequence[Path], image_column: str, label_column: str | None, what: str = "it") -> None:
        self._files, self._image_column = list(files), image_column
        groups: list[tuple[int, int, int]] = []  # (file, row group, bytes of the images)
        rows: list[int] = []
        labels: list[NDArray[Any]] = []
        names: list[tuple[str, ...] | None] = []
        for number, path in enumerate(self._files):
            file = open_parquet(path, what)
            with reading(path, what):
                require_columns(path.name, file.schema_arrow, image_column, label_column)
                found = read_row_groups(path)
                if sum(group.num_rows for group in found) != file.metadata.num_rows:
                    raise ValueError(f"its row groups have other numbers of rows than the {file.metadata.num_rows:,}")
                groups += [(number, g, group.num_bytes(image_column)) for g, group in enumerate(found)]
                rows += [group.num_rows for group in found]
                if label_column is not None:
                    labels.append(label_values(path, label_column))
                    names.append(parquet_class_names(path, file.schema_arrow.metadata, label_column))
        self._groups = groups
        self._first_rows = np.cumsum([0, *rows])
        file_rows = np.bincount([number for number, _, _ in groups], rows, len(self._files))
        self._file_first_rows = np.cumsum([0, *file_rows.astype(int)])
        self.labels, self.class_names = None, None
        if label_column is not None:
            labels, shared = aligned(self._files, labels, names, label_column)
            self.labels, self.class_names = label_indices(np.concatenate(labels), shared, label_column)
        self._held: tuple[int, _RowGroup] | None = None

    @override
    def __len__(self) -> int:
        return int(self._first_rows[-1])

    @override
    def encoded(self, indices: Sequence[int]) -> list[EncodedImage]:
        images: list[EncodedImage] = []
        for index in indices:
            group = int(np.searchsorted(self._first_rows, index, side="right")) - 1
            number, group_in_file, num_bytes = self._groups[group]
            path = self._files[number]
            with reading(path, f"row group {group_in_file}"):
                if self._held is None or self._held[0] != group:
                    self._held = (group, _RowGroup(path, group_in_file, self._image_column, num_bytes))
                value = self._held[1].value(index - int(self._first_rows[group]))
            images.append(encoded_value(value, path.parent, path.name))
        return images

    @override
    def for_any_order(self, cache_dir: Path) -> ImageSplit:
        # One row group that fits is held; of several, or parts of one, nearly every row would need another one.
        if len(self._groups) == 1 and self._groups[0][2] <= _HELD_BYTES:
            return self
        return ConvertedSplit(self, self._files, self._image_column, cache_dir)

    @override
    def locate(self, index: int) -> str:
        number = int(np.searchsorted(self._file_first_rows, index, side="right")) - 1
        return f"{printable(self._files[number].name)}, row {index - int(self._file_first_rows[number])}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None}


class _RowGroup:
    """The image column of one row group, read in pieces, of which the last ones are held."""

    def __init__(self, path: Path, group: int, column: str, num_bytes: int) -> None:
        self._path, self._group, self._column = path, group, column
        self._rows_at_once = min(max(_PIECE_BYTES // max(1, num_bytes), 4), 256)
        self._start()

    def _start(self) -> None:
        file = open_parquet(self._path)
        self._pieces = file.iter_batches(
            batch_size=self._rows_at_once, row_groups=[self._group], columns=[self._column]
        )
        self._held: deque[tuple[int, Any]] = deque()  # (first row, values)
        self._held_bytes = self._next_row = 0

    def value(self, row: int) -> Any:
        if self._held and row < self._held[0][0]:
            self._start()
        while row >= self._next_row:
            values = next(self._pieces).column(0)
            self._held.append((self._next_row, values))
            self._next_row += len(values)
            self._held_bytes += values.nbytes
            while self._held_bytes > _HELD_BYTES and len(self._held) > 1:
                self._held_bytes -= self._held.popleft()[1].nbytes
        first, values = self._held[bisect_right(self._held, row, key=lambda piece: piece[0]) - 1]
        return values[row - first].as_py()


class ConvertedSplit(ImageSplit):
    """The rows of parquet files as the `datasets` library keeps them: on disk, each row at its place."""

    def __init__(self, source: ParquetSplit, files: Sequence[Path], image_column: str, cache_dir: Path) -> None:
        from datasets import Dataset

        names = [str(path) for path in files]
        # The library knows a file by its name and time alone.
        place = cache_dir / "arrow" / sha256_of([[name, *stat_signature(Path(name))] for name in names])[:16]
        try:
            rows = Dataset.from_parquet(names, columns=[image_column], cache_dir=str(place))
        except Exception as error:  # the library raises errors of many kinds, a full disk among them
            raise RequestError(
                f"{files[0].parent}: parquet files are converted to be read in any order, which failed: "
                f"{one_line(error)}; make space, or choose another place with {asked('cache_dir')}"
            ) from None
        self._source, self._rows = source, ArrowSplit(rows, files[0].parent.name, image_column, None, files[0].parent)
        self.labels, self.class_names, self.decoding = source.labels, source.class_names, source.decoding

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

        require_columns(name, dataset.features.arrow_schema, image_column, label_column)
        columns = [image_column] if label_column is None else [image_column, label_column]
        with reading(root):
            # A damaged file can hold offsets that lead outside of it, which end the process when they are followed.
            dataset.data.table.select(columns).validate(full=True)
        self._name, self._root, self._image_column = name, root, image_column
        self.labels = self.class_names = None
        if label_column is not None:
            names = getattr(dataset.features[label_column], "names", None)
            if names is not None and not all(isinstance(each, str) for each in names):
                raise RequestError(f"{printable(name)}: the class names of {printable(label_column)!r} are no texts")
            values = np.asarray(dataset.with_format("numpy", columns=[label_column])[:][label_column])
            shown = tuple(map(printable, names)) if names else None
            self.labels, self.class_names = label_indices(values, shown, label_column)
        images = dataset.select_columns([image_column])
        if isinstance(images.features[image_column], ImageFeature):
            images = images.cast_column(image_column, ImageFeature(decode=False))
        self._images = images.with_format("arrow")

    @override
    def __len__(self) -> int:
        return len(self._images)

    @override
    def encoded(self, indices: Sequence[int]) -> list[EncodedImage]:
        with reading(self._root):
            values = self._images[list(indices)][self._image_column].to_pylist()
        return [encoded_value(value, self._root, self._name) for value in values]

    @override
    def locate(self, index: int) -> str:
        return f"{printable(self._name)}, row {index}"

    def named_images(self) -> list[Path]:
        """Returns the files that rows name in place of holding an image; raises as `image_place`."""
        import pyarrow as pa
        import pyarrow.compute as pc

        values = self._images.data.column(self._image_column)
        if pa.types.is_struct(values.type):
            content = pc.struct_field(values, "bytes")
            values = pc.struct_field(values, "path").filter(pc.equal(pc.fill_null(pc.binary_length(content), 0), 0))
        if not pa.types.is_string(values.type) and not pa.types.is_large_string(values.type):
            return []
        names = values.unique().drop_null().to_pylist()
        return [image_place(name, self._root, self._name) for name in names]


def require_columns(where: str, schema: Any, image_column: str, label_column: str | None) -> None:
    """Raises `RequestError` where a column is not there, or is of a type (of arrow) that holds no images or labels."""
    found = ", ".join(map(printable, schema.names))
    for option, column in (("image", image_column), ("label", label_column)):
        if column is None:
            continue
        kind = schema.field(column).type if column in schema.names else None
        if kind is None:
            problem = f"no {option} column {printable(column)!r}"
        elif not (_may_hold_images(kind) if option == "image" else _may_hold_labels(kind)):
            problem = f"the column {printable(column)!r} holds {printable(str(kind))}, no {option}s"
        else:
            continue
        remedy = f"name it with {asked(f'{option}_column')}"
        raise RequestError(f"{problem}; found: {found}", where=printable(where), remedy=remedy)


def _may_hold_images(kind: Any) -> bool:
    """Tells whether values of an arrow type are files, or names of files, or the hub's `{bytes, path}`."""
    import pyarrow.types as of

    if of.is_struct(kind):
        return bool({"bytes", "path"} & {kind.field(index).name for index in range(kind.num_fields)})
    kinds = (of.is_binary, of.is_large_binary, of.is_string, of.is_large_string, of.is_null)  # null: without rows
    return any(is_it(kind) for is_it in kinds)


def _may_hold_labels(kind: Any) -> bool:
    """Tells whether values of an arrow type are numbers or texts, of which `label_indices` takes some."""
    import pyarrow.types as of

    if of.is_dictionary(kind):
        return _may_hold_labels(kind.value_type)
    return not of.is_nested(kind) and not of.is_binary(kind) and not of.is_large_binary(kind)


def encoded_value(value: Any, root: Path, where: str) -> EncodedImage:
    """Returns the image of one cell of an image column: bytes, a file name, or the hub's `{bytes, path}`.

    Args:
        value: the cell.
        root: what file names are relative to, and must stay below.
        where: the table, for a message.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return image_place(value, root, where)
    return b""  # no image in this row: the decoder refuses it, and the error names the row


def image_place(name: str, root: Path, where: str) -> Path:
    """Returns the file that a table names; raises `RequestError` where that lies outside its folder."""
    base = Path(os.path.normpath(root.absolute()))
    place = Path(os.path.normpath(base / name))
    if "\0" in name or not place.is_relative_to(base):
        raise RequestError(
            f"{printable(where)}: it names the image {printable(name)!r}, and images lie below the table's own "
            "folder; embed them in the table, or move them there"
        )
    return root / place.relative_to(base)


def named_images(files: Sequence[Path], image_column: str) -> list[Path]:
    """Returns the files that the rows of parquet files name as their images; none where the tables hold them.

    Raises:
        RequestError: A table cannot be read, or names a file outside its folder.
    """
    import pyarrow as pa

    found: dict[Path, None] = {}
    for path in files:
        file = open_parquet(path)
        with reading(path):
            require_columns(path.name, file.schema_arrow, image_column, None)
            column = file.schema_arrow.field(image_column)
            if pa.types.is_struct(column.type) and not _has_gaps(path, f"{image_column}.bytes"):
                continue
            if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
                continue
            for piece in file.iter_batches(batch_size=64, columns=[image_column]):
                for value in piece.column(0).to_pylist():
                    image = encoded_value(value, path.parent, path.name)
                    if isinstance(image, Path):
                        found[image] = None
    return sorted(found)


def _has_gaps(path: Path, leaf: str) -> bool:
    """Tells whether a column may have rows without a value, by what the file says of each row group."""
    chunks = [group.columns.get(leaf) for group in read_row_groups(path)]
    return any(chunk is None or chunk.num_nulls != 0 for chunk in chunks)
