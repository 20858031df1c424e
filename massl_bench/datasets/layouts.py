"""The layouts in which a dataset may lie in a directory: how each is recognised, listed and read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from typing_extensions import override

from massl_bench.core.errors import RequestError
from massl_bench.core.printable import printable
from massl_bench.core.values import GroundTruth
from massl_bench.datasets.columns import Columns
from massl_bench.datasets.folders import check_link, class_files, image_files, not_taken, subfolders, with_labels
from massl_bench.datasets.layout import Layout
from massl_bench.datasets.left_out import LeftOut
from massl_bench.datasets.parquet_files import find_splits
from massl_bench.datasets.published import READERS
from massl_bench.datasets.published.embedded import read_patches
from massl_bench.datasets.sampling import divided_rows
from massl_bench.datasets.saved import SavedLayout
from massl_bench.datasets.splits import FileSplit, ImageSplit, SubsetSplit
from massl_bench.datasets.tables import ParquetSplit, named_images, open_parquet
from massl_bench.specs.dataset import PatchGrid

_NAMED_MISSING = 5
_DIVISION_SEED = 0


@dataclass(frozen=True)
class ParquetLayout(Layout):
    """`<split>-00000-of-00001.parquet`, as the dataset hub stores it, and images that its rows name."""

    split_files: Mapping[str, tuple[Path, ...]]
    columns: Columns

    @override
    def files(self) -> list[Path]:
        return [*self._tables, *self._images]

    @property
    def _tables(self) -> list[Path]:
        return list(dict.fromkeys(path for _, paths in sorted(self.split_files.items()) for path in paths))

    @cached_property
    def _images(self) -> list[Path]:
        found = (named_images(files, self._columns(files[0])[0]) for files in self.split_files.values())
        return sorted({path for paths in found for path in paths})

    def _columns(self, path: Path) -> tuple[str, str | None]:
        return self.columns.resolve(printable(path.name), open_parquet(path).schema_arrow.names)

    @override
    def left_out(self) -> LeftOut:
        return LeftOut.of(not_taken(self.root, self.files()))

    @override
    def label_problem(self) -> str | None:
        return self.columns.label_problem(open_parquet(self._tables[0]).schema_arrow.names)

    @override
    def read(self, source: str) -> ImageSplit:
        files = self.split_files[source]
        image, label = self._columns(files[0])
        return ParquetSplit(files, image, label, f"the {source} parquet files")


@dataclass(frozen=True)
class FolderLayout(Layout):
    """`<split>/<class>/*.jpg`; classes are numbered in the sorted order of the training split's folders."""

    split_folders: Mapping[str, str]
    class_names: tuple[str, ...]

    @cached_property
    def _files(self) -> dict[str, list[tuple[str, Path]]]:
        return {folder: class_files(self.root / folder) for folder in self.split_folders.values()}

    @override
    def files(self) -> list[Path]:
        return [path for _, folder in sorted(self.split_folders.items()) for _, path in self._files[folder]]

    @override
    def left_out(self) -> LeftOut:
        return LeftOut.of(not_taken(self.root, self.files()))

    @override
    def read(self, source: str) -> ImageSplit:
        folder = self.split_folders[source]
        files, labels = with_labels(self.root, self._files[folder], folder, self.class_names)
        return FileSplit(self.root, files, labels, tuple(map(printable, self.class_names)))


@dataclass(frozen=True)
class DividedLayout(Layout):
    """`<class>/*.jpg`, divided into `train` and `test` by a draw in each class."""

    share: float
    """Of each class's images, the test split's."""

    @cached_property
    def _files(self) -> list[tuple[str, Path]]:
        return class_files(self.root)

    @cached_property
    def _class_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for name, _ in self._files))

    @override
    def files(self) -> list[Path]:
        return [path for _, path in self._files]

    @override
    def left_out(self) -> LeftOut:
        return LeftOut.of(not_taken(self.root, self.files()))

    @override
    def reading(self) -> dict[str, Any]:
        return {"split_share": self.share, "split_seed": _DIVISION_SEED}

    @override
    def read(self, source: str) -> ImageSplit:
        files, labels = with_labels(self.root, self._files, "", self._class_names)
        sizes = Counter(name for name, _ in self._files)
        alone = next((name for name, size in sizes.items() if size < 2), None)
        if alone is not None:
            raise RequestError(
                f"{printable(self.root / alone)}: one image, and a class that is divided needs at least two; add "
                "images or remove the folder"
            )
        whole = FileSplit(self.root, files, labels, tuple(map(printable, self._class_names)))
        rows = divided_rows(labels, files, self.share, _DIVISION_SEED)
        return SubsetSplit(whole, rows[source].tolist(), labelled=True)


@dataclass(frozen=True)
class FlatLayout(Layout):
    """A folder of images without classes: one unlabelled split, `all`."""

    @cached_property
    def _files(self) -> list[Path]:
        return image_files(self.root)

    @override
    def files(self) -> list[Path]:
        return self._files

    @override
    def left_out(self) -> LeftOut:
        return LeftOut.of(not_taken(self.root, self._files))

    @override
    def read(self, source: str) -> ImageSplit:
        return FileSplit(self.root, [path.relative_to(self.root).as_posix() for path in self._files], None, None)


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
    def shared_files(self, sources: Sequence[str]) -> list[Path]:
        reader = READERS[self.reader]
        shared = all(source in reader.shared for source in sources)
        return [path for source in sources for path in reader.files(self.root, source)] if shared else []

    @override
    def ground_truth(self) -> GroundTruth | None:
        truth = READERS[self.reader].truth
        return truth(self.root) if truth is not None else None

    @override
    def head_classes(self) -> Sequence[Sequence[int]] | None:
        classes = READERS[self.reader].head_classes
        return classes(self.root) if classes is not None else None

    @override
    def left_out(self) -> LeftOut:
        left_out = READERS[self.reader].left_out
        return LeftOut.of(left_out(self.root)) if left_out is not None else LeftOut()


def find_layout(
    root: Path, sources: list[str], columns: Columns, reader: str | None, config: str | None = None
) -> Layout | None:
    """Returns the first layout that `root` holds with all the wanted splits, or None.

    Args:
        root: the dataset's directory; need not exist.
        sources: the source names of the splits that are needed.
        columns: of a table of images.
        reader: the name of the reader of the dataset's own layout.
        config: the folder of parquet files that is meant, where there are several.
    """
    own = READERS[reader] if reader is not None else None
    if reader is not None and own is not None and own.marker is None:
        return PublishedLayout("embedded", root, reader, tuple(sources))
    if not root.is_dir():
        return None
    if own is None or not own.sole:
        layout = _find_common(root, sources, columns, config)
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


def _find_common(root: Path, sources: list[str], columns: Columns, config: str | None) -> Layout | None:
    """Returns the layout of `root` that any dataset may have, or None: parquet, saved directory, class folders."""
    parquet = find_parquet(root, sources, columns, config)
    if parquet is not None:
        return parquet
    if (root / "dataset_dict.json").is_file():
        return SavedLayout("datasets", root, columns, tuple(sources))
    return find_class_folders(root, sources)


def find_parquet(root: Path, sources: list[str], columns: Columns, config: str | None = None) -> ParquetLayout | None:
    """Returns the parquet files in `root` or one of its folders, or None where a split has none."""
    split_files = find_splits(root, sources, config)
    return ParquetLayout("parquet", root, split_files, columns) if split_files is not None else None


def find_class_folders(root: Path, sources: list[str]) -> FolderLayout | None:
    """Returns the class folders below `root`, or None where a split has none; `val` serves for `test`."""
    aliases = {"test": ("test", "val", "validation"), "validation": ("validation", "val")}
    split_folders = {}
    for source in sources:
        names = aliases.get(source, (source,))
        folder = next((name for name in names if any(subfolders(root / name))), None)
        if folder is None:
            return None
        check_link(root / folder)
        split_folders[source] = folder
    first = split_folders.get("train", next(iter(split_folders.values())))
    return FolderLayout("folders", root, split_folders, tuple(subfolders(root / first)))
