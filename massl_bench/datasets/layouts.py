"""The layouts in which a dataset may lie in a directory: how each is recognised, listed and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.values import GroundTruth
from massl_bench.datasets.folders import class_files, image_files, labelled_files, subfolders
from massl_bench.datasets.published import READERS
from massl_bench.datasets.published.embedded import read_patches
from massl_bench.datasets.splits import FileSplit, ImageSplit
from massl_bench.datasets.tables import ArrowSplit, ParquetSplit
from massl_bench.specs.dataset import PatchGrid

_NAMED_MISSING = 5


@dataclass(frozen=True)
class Columns:
    """The columns of a table of images; None where they should be guessed from their usual names."""

    image: str | None = None
    label: str | None = None

    def resolve(self, where: str, found: list[str]) -> tuple[str, str | None]:
        """Returns (image column, label column or None); only the usual names are guessed."""
        image = self.image or next((name for name in ("image", "img") if name in found), None)
        if image is None:
            raise RequestError(
                f"{where}: no column is called image or img; found: {', '.join(found)}; name it with --image-column"
            )
        return image, self.label or ("label" if "label" in found else None)


@dataclass(frozen=True)
class Layout(ABC):
    """A dataset that was found in a directory."""

    kind: str
    root: Path

    @abstractmethod
    def files(self) -> list[Path]:
        """Returns every file that the dataset is read from, in a fixed order."""

    @abstractmethod
    def read(self, source: str) -> ImageSplit:
        """Returns one split, by the name it has in this source."""

    def ground_truth(self) -> GroundTruth | None:
        """Returns what the queries should find, or None where the layout does not say it."""
        return None

    def holds(self, sources: Sequence[str]) -> bool:
        """Tells whether an optional split is there, by the names that it has in this source."""
        return True


@dataclass(frozen=True)
class ParquetLayout(Layout):
    """`<split>-*.parquet`, as the dataset hub stores it."""

    split_files: Mapping[str, tuple[Path, ...]]
    columns: Columns

    @override
    def files(self) -> list[Path]:
        return [path for _, paths in sorted(self.split_files.items()) for path in paths]

    @override
    def read(self, source: str) -> ImageSplit:
        import pyarrow.parquet as pq

        files = self.split_files[source]
        try:
            image, label = self.columns.resolve(files[0].name, pq.read_schema(files[0]).names)
            return ParquetSplit(files, image, label)
        except (OSError, ValueError) as error:  # pyarrow's errors derive from these
            raise RequestError(f"{self.root}: the {source} parquet files cannot be read: {one_line(error)}") from None


@dataclass(frozen=True)
class SavedLayout(Layout):
    """A directory written by `save_to_disk` of the `datasets` library, or anything that its `load_dataset` reads."""

    columns: Columns

    @override
    def files(self) -> list[Path]:
        return sorted(path for path in self.root.rglob("*") if path.is_file() and not path.name.startswith("."))

    @override
    def read(self, source: str) -> ImageSplit:
        import datasets

        try:
            if (self.root / "dataset_dict.json").is_file():
                splits = datasets.load_from_disk(str(self.root))
            else:
                splits = datasets.load_dataset(str(self.root))
        except Exception as error:  # the library raises errors of many kinds for a directory that it cannot read
            raise RequestError(f"{self.root}: the datasets library cannot read it: {one_line(error)}") from None
        if source not in splits:
            raise RequestError(f"{self.root}: no split {source!r}; found: {', '.join(splits)}; see --split")
        split = splits[source]
        image, label = self.columns.resolve(self.root.name, split.column_names)
        return ArrowSplit(split, f"{self.root.name}/{source}", image, label, self.root)


@dataclass(frozen=True)
class FolderLayout(Layout):
    """`<split>/<class>/*.jpg`; classes are numbered in the sorted order of the training split's folders."""

    split_folders: Mapping[str, str]
    class_names: tuple[str, ...]

    @override
    def files(self) -> list[Path]:
        return [path for _, folder in sorted(self.split_folders.items()) for _, path in class_files(self.root / folder)]

    @override
    def read(self, source: str) -> ImageSplit:
        files, labels = labelled_files(self.root, self.split_folders[source], self.class_names)
        return FileSplit(self.root, files, labels, self.class_names)


@dataclass(frozen=True)
class FlatLayout(Layout):
    """A folder of images without classes: one unlabelled split, `all`."""

    @override
    def files(self) -> list[Path]:
        return image_files(self.root)

    @override
    def read(self, source: str) -> ImageSplit:
        return FileSplit(self.root, [path.relative_to(self.root).as_posix() for path in self.files()], None, None)


@dataclass(frozen=True)
class PatchesLayout(Layout):
    """Patches of the photographs that scikit-learn embeds: one unlabelled split, `all`."""

    grid: PatchGrid

    @override
    def files(self) -> list[Path]:
        return []

    @override
    def read(self, source: str) -> ImageSplit:
        return read_patches(self.grid)


@dataclass(frozen=True)
class PublishedLayout(Layout):
    """The dataset's own layout, or data that a library embeds."""

    reader: str
    sources: tuple[str, ...]

    @override
    def files(self) -> list[Path]:
        listed = [path for source in self.sources for path in READERS[self.reader].files(self.root, source)]
        return list(dict.fromkeys(listed))  # splits share tables

    @override
    def read(self, source: str) -> ImageSplit:
        return READERS[self.reader].read(self.root, source)

    @override
    def holds(self, sources: Sequence[str]) -> bool:
        return all(READERS[self.reader].files(self.root, source) for source in sources)

    @override
    def ground_truth(self) -> GroundTruth | None:
        truth = READERS[self.reader].truth
        return truth(self.root) if truth is not None else None


def find_layout(root: Path, sources: list[str], columns: Columns, reader: str | None) -> Layout | None:
    """Returns the first layout that `root` holds with all the wanted splits, or None.

    Args:
        root: the dataset's directory; need not exist.
        sources: the source names of the splits that are needed.
        columns: of a table of images.
        reader: the name of the reader of the dataset's own layout.
    """
    own = READERS[reader] if reader is not None else None
    if reader is not None and own is not None and own.marker is None:
        return PublishedLayout("embedded", root, reader, tuple(sources))
    if not root.is_dir():
        return None
    if own is None or not own.sole:
        layout = _find_common(root, sources, columns)
        if layout is not None:
            return layout
    begins = own.locate(root) if own is not None else None
    if reader is None or begins is None:
        return None
    published = PublishedLayout("published", begins, reader, tuple(sources))
    missing = [path.relative_to(begins).as_posix() for path in published.files() if not path.is_file()]
    if missing:
        more = f" and {len(missing) - _NAMED_MISSING:,} more" if len(missing) > _NAMED_MISSING else ""
        raise RequestError(
            f"{begins}: incomplete: {', '.join(missing[:_NAMED_MISSING])}{more} not found; unpack the archive again"
        )
    return published


def _find_common(root: Path, sources: list[str], columns: Columns) -> Layout | None:
    """Returns the layout of `root` that any dataset may have, or None: parquet, saved directory, class folders."""
    parquet = find_parquet(root, sources, columns)
    if parquet is not None:
        return parquet
    if (root / "dataset_dict.json").is_file():
        return SavedLayout("datasets", root, columns)
    return find_class_folders(root, sources)


def find_parquet(root: Path, sources: list[str], columns: Columns) -> ParquetLayout | None:
    """Returns the parquet files in `root` or one of its folders, or None where a split has none."""
    if not root.is_dir():
        return None
    for folder in (root, root / "data", *sorted(path for path in root.iterdir() if path.is_dir())):
        split_files = {source: tuple(sorted(folder.glob(f"{source}-*.parquet"))) for source in sources}
        if all(split_files.values()):
            return ParquetLayout("parquet", root, split_files, columns)
    return None


def find_class_folders(root: Path, sources: list[str]) -> FolderLayout | None:
    """Returns the class folders below `root`, or None where a split has none; `val` serves for `test`."""
    aliases = {"test": ("test", "val", "validation"), "validation": ("validation", "val")}
    split_folders = {}
    for source in sources:
        names = aliases.get(source, (source,))
        folder = next((name for name in names if any(subfolders(root / name))), None)
        if folder is None:
            return None
        split_folders[source] = folder
    first = split_folders.get("train", next(iter(split_folders.values())))
    return FolderLayout("folders", root, split_folders, tuple(subfolders(root / first)))
