"""Datasets that the `datasets` library reads: directories of its own, and hub repositories in any format it knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from typing_extensions import override

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import open_regular, parse_json, read_regular, sha256_of, stat_signature
from massl_bench.core.printable import printable
from massl_bench.core.wording import asked
from massl_bench.datasets.columns import Columns
from massl_bench.datasets.folders import all_files, is_image, not_taken
from massl_bench.datasets.layout import Layout
from massl_bench.datasets.left_out import LeftOut
from massl_bench.datasets.table_labels import parquet_class_names
from massl_bench.datasets.tables import ArrowSplit, open_parquet


@dataclass(frozen=True)
class SavedLayout(Layout):
    """A directory written by `save_to_disk` of the `datasets` library, or anything that its `load_dataset` reads."""

    columns: Columns
    sources: tuple[str, ...]
    """The splits that are wanted."""
    config: str | None = None
    cache_dir: Path | None = None
    """Where what `load_dataset` makes of the files is kept; unused for a directory of `save_to_disk`."""

    @cached_property
    def _files(self) -> list[Path]:
        return all_files(self.root)

    @override
    def files(self) -> list[Path]:
        return self._files

    @override
    def reading(self) -> dict[str, Any]:
        # All files are in the fingerprint, whichever of them a configuration takes.
        return {"config": self.config} if self.config is not None else {}

    @property
    def _saved(self) -> bool:
        return (self.root / "dataset_dict.json").is_file()

    @override
    def left_out(self) -> LeftOut:
        taken = [path for source in self.sources for path in self._tables(source)]
        # Of images that lie beside their table, the library takes those that a row names.
        taken += [image for source in self.sources for image in self.read(source).named_images()]
        return LeftOut.of(not_taken(self.root, taken))

    def _tables(self, source: str) -> list[Path]:
        """Returns the files that hold the rows of a split."""
        with self._reading():
            if self._saved:
                return self._named(self.root / source)
            found = (self._builder.config.data_files or {}).get(source, [])
            return [path for path in map(Path, found) if not is_image(path)]

    def _named(self, folder: Path) -> list[Path]:
        """Returns the files of rows that the library takes for a saved split: what its `state.json` names.

        Raises:
            RequestError: One of them is no file of this dataset: it would be read, and not be in the fingerprint.
        """
        state = parse_json(read_regular(folder / "state.json"))
        named = [folder / part["filename"] for part in state["_data_files"]]
        if (other := next((path for path in named if path not in self._files), None)) is not None:
            raise RequestError(
                f"{printable(folder / 'state.json')}: names {printable(other)}, which is no file of this dataset; save "
                "it again"
            )
        return named

    @cached_property
    def _builder(self) -> Any:
        import datasets

        # The library knows a file by its name and time alone, and keeps what it made of it.
        content = sha256_of([[str(path), *stat_signature(path)] for path in self._files])[:16]
        place = str(self.cache_dir / "arrow" / content) if self.cache_dir is not None else None
        return datasets.load_dataset_builder(str(self.root), name=self.config, cache_dir=place)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except RequestError:
            raise
        except Exception as error:  # the library raises errors of many kinds for a directory that it cannot read
            unclear = "onfig" in str(error) and self.config is None
            raise RequestError(
                f"{printable(self.root)}: the datasets library cannot read it: {one_line(error)}",
                remedy=f"choose one with {asked('config', 'NAME')}" if unclear else None,
            ) from None

    @cached_property
    def _splits(self) -> Any:
        import datasets

        with self._reading():
            for path in self._files:
                if not is_image(path):
                    open_regular(path).close()  # the library would wait for a pipe
            if self._saved:
                for state in sorted(self.root.glob("*/state.json")):
                    self._named(state.parent)
                return datasets.load_from_disk(str(self.root))
            self._builder.download_and_prepare()
            return self._builder.as_dataset()

    @override
    def label_problem(self) -> str | None:
        there = [source for source in self.sources if source in self._splits]
        return self.columns.label_problem(self._splits[there[0]].column_names) if there else None

    @override
    def read(self, source: str) -> ArrowSplit:
        splits = self._splits
        if source not in splits:
            raise RequestError(
                f"{printable(self.root)}: no split {source!r}; found: {', '.join(map(printable, splits))}",
                remedy=f"see {asked('splits')}",
            )
        split = splits[source]
        image, label = self.columns.resolve(printable(self.root.name), split.column_names)
        if label is not None and not self._saved:
            self._check_class_names(source, label)
        with self._reading():
            return ArrowSplit(split, f"{self.root.name}/{source}", image, label, self.root)

    def _check_class_names(self, source: str, label: str) -> None:
        """Raises `RequestError` where the parquet files of a split name other classes: the library would not see it."""
        tables = [path for path in self._tables(source) if path.suffix == ".parquet"]
        names = [parquet_class_names(path, open_parquet(path).schema_arrow.metadata, label) for path in tables]
        other = next((path for path, found in zip(tables, names, strict=True) if found != names[0]), None)
        if other is not None:
            raise RequestError(
                f"{printable(other)}: its class names for {label!r} are not those of {printable(tables[0].name)}, and "
                "the datasets library would take one for the other; fetch the files again, of one version"
            )
