"""A dataset by reference: found on disk, fingerprinted, and checked against what its spec promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from massl_bench.datasets.fetch import fetch_hub, fetch_spec
from massl_bench.datasets.fingerprint import fingerprint_files
from massl_bench.datasets.layouts import (
    Columns,
    FlatLayout,
    FolderLayout,
    Layout,
    PatchesLayout,
    SavedLayout,
    find_class_folders,
    find_layout,
    find_parquet,
)
from massl_bench.datasets.published import READERS
from massl_bench.datasets.shards import find_shards
from massl_bench.datasets.splits import ImageSplit, JoinedSplit, Labels
from massl_bench.errors import MissingDataError, RequestError
from massl_bench.specs import DatasetSpec, Registry, SplitSpec
from massl_bench.storage import read_memo, sha256_of, write_memo
from massl_bench.types import LABELLED_KINDS, CopyTruth, DatasetKind, GroundTruth


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where datasets are looked for, and how tables without a spec are read."""

    cache_dir: Path
    data_root: Path | None = None
    offline: bool = False
    columns: Columns = field(default_factory=Columns)
    splits: Mapping[str, str] = field(default_factory=dict)
    """Source names by role, for `folder:` and `hf:`."""

    def check_used(self, reference: str, *, used: tuple[str, ...] = (), why: str) -> None:
        """Raises `RequestError` where one of `--image-column`, `--label-column` and `--split` is given, but not used.

        Args:
            reference: the dataset.
            used: those of the three that such a dataset uses.
            why: what it is, that the others mean nothing for it.
        """
        given = {
            "--image-column": self.columns.image,
            "--label-column": self.columns.label,
            "--split": self.splits,
        }
        for option, value in given.items():
            if value and option not in used:
                places = "hf: data and class folders" if option == "--split" else "hf: data"
                raise RequestError(f"{option}: is for {places}; {reference} is {why}: leave it out")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset that is on this machine.

    Attributes:
        name: the reference, as the user gave it.
        spec: what it must contain; None for `folder:` and `hf:`.
        sources: the source names of each split, in order, by role.
    """

    name: str
    kind: DatasetKind
    spec: DatasetSpec | None
    layout: Layout
    sources: Mapping[str, tuple[str, ...]]
    memo_dir: Path
    revision: str | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of the content of all files, and of how they are read."""
        if self.layout.kind == "embedded":
            content = self._embedded_fingerprint()
        else:
            content = fingerprint_files(self.layout.root, self.layout.files(), self.memo_dir)
        columns = getattr(self.layout, "columns", Columns())
        sources = {role: " + ".join(names) for role, names in self.sources.items()}
        reading: dict[str, Any] = {
            "kind": self.layout.kind,
            "sources": sources,
            "columns": [columns.image, columns.label],
        }
        validation = {role: split.validation for role, split in self._split_specs.items() if split.validation}
        if validation:
            reading["validation"] = validation
        return sha256_of({"content": content, "reading": reading})

    def _embedded_fingerprint(self) -> str:
        """Returns the hash of embedded arrays, remembered for the version of the library that holds them."""
        libraries = ("scikit-learn", "massl-bench", "pillow")
        grid = self.layout.grid.model_dump() if isinstance(self.layout, PatchesLayout) else None
        key = sha256_of([self.name, dict(self.sources), grid, *(metadata.version(name) for name in libraries)])
        remembered = read_memo(self.memo_dir / "fingerprints", key)
        if remembered is not None and isinstance(remembered.get("sha256"), str):
            return str(remembered["sha256"])
        content = {}
        for role in self.sources:
            split = self._read(role)
            pixels = np.stack([np.asarray(image) for image in split.encoded(range(len(split)))])
            labels = [] if split.labels is None else split.labels.tolist()
            content[role] = [pixels.shape, pixels.tobytes().hex(), labels]
        digest = sha256_of(content)
        write_memo(self.memo_dir / "fingerprints", key, {"sha256": digest})
        return digest

    @property
    def place(self) -> str:
        """Where it lies, for people."""
        return "embedded" if self.layout.kind == "embedded" else f"{self.layout.kind} in {self.layout.root}"

    def num_items(self, role: str) -> int:
        """Returns the number of items of a split: what the spec declares (and `split` checks), else what is found."""
        declared = self.spec.splits[role].size if self.spec is not None else None
        return declared if declared is not None else len(self.split(role))

    @property
    def _split_specs(self) -> Mapping[str, SplitSpec]:
        return self.spec.splits if self.spec is not None else {}

    def validation_from(self, role: str) -> int | None:
        """Returns the first row of the validation part with which a split ends; None where it has no such part."""
        spec = self._split_specs.get(role)
        if spec is None or spec.validation is None:
            return None
        split = self.split(role)
        assert isinstance(split, JoinedSplit)
        return split.starts[-2]

    @property
    def generated(self) -> Mapping[str, Any] | None:
        """What the suite made of the files, for the record; None where the images are the files' own."""
        return None

    @cached_property
    def _opened(self) -> dict[str, ImageSplit]:
        return {}

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The class names in label order, where there are classes and their names are known."""
        if self.kind not in LABELLED_KINDS:
            return None
        if self.spec is not None and self.spec.class_names is not None:
            return self.spec.class_names
        return self.split("train" if "train" in self.sources else next(iter(self.sources))).class_names

    @property
    def num_classes(self) -> int | None:
        """The number of classes: the spec's, else the number of class names, else the labels of the training split."""
        if self.kind not in LABELLED_KINDS:
            return None
        if self.spec is not None:
            return self.spec.num_classes
        if self.class_names is not None:
            return len(self.class_names)
        labels = self.split("train").labels
        assert labels is not None
        return len(np.unique(labels))

    def ground_truth(self, num_queries: int | None = None) -> GroundTruth | None:
        """Returns what the queries should find, or None where the dataset says nothing of that.

        Args:
            num_queries: only of the first queries; None for all of them.
        """
        truth = self._truth()
        if truth is None or num_queries is None:
            return truth
        if isinstance(truth, CopyTruth):
            return replace(truth, original=truth.original[:num_queries], block=truth.block[:num_queries])
        return truth[:num_queries]

    def _truth(self) -> GroundTruth | None:
        truth = self.layout.ground_truth()
        if self.spec is None or not isinstance(truth, CopyTruth):
            return truth
        found = Counter(truth.block.tolist())
        found["originals"] = self.num_items("originals")
        expected = self.spec.published_sizes
        unlike = [f"{name}: {found[name]} of {size}" for name, size in expected.items() if found[name] != size]
        return replace(truth, unlike_published=tuple(unlike))

    def split(self, role: str) -> ImageSplit:
        """Returns one split, checked: size, label range, class count and class order.

        Where a split names its classes in another order than the training split, or only some of them, its labels are
        brought to the training split's.

        Raises:
            RequestError: The dataset has no such split, or its content is not what it must be: the text says what was
                found, what was expected and what to do.
        """
        if role not in self.sources:
            raise RequestError(f"{self.name}: no {role} split; it has: {', '.join(self.sources)}")
        if role not in self._opened:
            split = self._read(role)
            if role != "train" and "train" in self.sources and self.kind in LABELLED_KINDS:
                self._number_as_train(role, split)
            self._check(role, split)
            self._opened[role] = split
        return self._opened[role]

    def _read(self, role: str) -> ImageSplit:
        parts = [self.layout.read(source) for source in self.sources[role]]
        return parts[0] if len(parts) == 1 else JoinedSplit(parts)

    def _number_as_train(self, role: str, split: ImageSplit) -> None:
        """Makes a label mean the same class as in the training split, where both name their classes."""
        names, found = self.split("train").class_names, split.class_names
        if names is None or found is None or found == names or split.labels is None or split.labels.ndim != 1:
            return
        number = {name: index for index, name in enumerate(names)}
        unknown = [name for name in found if name not in number]
        if unknown or len(number) != len(names) or len(set(found)) != len(found):
            why = f"{unknown[0]!r} is not among its {len(names)}" if unknown else "a name stands for two of them"
            raise RequestError(
                f"{self.name} ({role}, {self.place}): the classes are not those of the training split ({why}): the "
                "labels cannot be compared; check the copy, or choose other splits with --split"
            )
        number_F = np.array([number[name] for name in found], dtype=np.int64)
        known_N = (split.labels >= 0) & (split.labels < len(found))  # what is outside, `_check` refuses
        split.labels = np.where(known_N, number_F[np.where(known_N, split.labels, 0)], split.labels)
        split.class_names = names

    def _check(self, role: str, split: ImageSplit) -> None:
        where = f"{self.name} ({role}, {self.place})"
        remedy = f"see: massl-bench info {self.name}"
        if len(split) == 0:
            raise RequestError(f"{where}: the split is empty: at least one image is needed")
        if self.spec is None:
            self._check_labels(where, role, split, None)
            return
        expected = self.spec.splits[role].size
        if expected is not None and len(split) != expected:
            raise RequestError(
                f"{where}: found {len(split):,} images, expected {expected:,}: an incomplete or different copy; "
                f"{remedy}"
            )
        if self.kind not in LABELLED_KINDS:
            return
        if split.labels is None:
            raise RequestError(f"{where}: found no label column, expected one; {remedy}")
        names = self.spec.class_names
        if split.class_names is not None and names is not None and tuple(split.class_names) != names:
            raise RequestError(
                f"{where}: the classes are {_difference(split.class_names, names)}: the labels would mean something "
                f"else; {remedy}"
            )
        self._check_labels(where, role, split, self.spec.num_classes)

    def _check_labels(self, where: str, role: str, split: ImageSplit, expected: int | None) -> None:
        labels = split.labels
        if labels is None:
            return
        if self.kind == "multi-label" or labels.ndim != 1:
            self._check_multi_label(where, labels, expected)
            return
        found = np.unique(labels)
        # A test split without a spec may hold fewer classes than the training split, but never other ones.
        count = expected or (len(split.class_names) if split.class_names is not None else None)
        if count is None:
            count = len(found) if role == "train" or "train" not in self.sources else self.num_classes
        assert count is not None  # the kinds without classes are not checked
        if found[0] < 0 or found[-1] >= count:
            own = f"see: massl-bench info {self.name}"
            advice = "choose a labelled split (--split test=validation)" if self.spec is None else own
            raise RequestError(
                f"{where}: found labels from {found[0]} to {found[-1]}, expected 0 to {count - 1}; "
                f"unlabelled images carry −1 in some copies: {advice}"
            )
        if expected is not None and len(found) != expected:
            raise RequestError(
                f"{where}: found {len(found)} classes, expected {expected}; see: massl-bench info {self.name}"
            )

    def _check_multi_label(self, where: str, labels_NC: Labels, expected: int | None) -> None:
        if self.kind != "multi-label" or labels_NC.ndim != 2 or labels_NC.shape[1] != expected:
            classes = "[N]" if self.kind != "multi-label" else f"[N, {expected}]"
            raise RequestError(
                f"{where}: found labels of shape {list(labels_NC.shape)}, expected {classes} for a {self.kind} dataset"
            )
        strange = np.setdiff1d(labels_NC, [-1, 0, 1])
        if len(strange):
            raise RequestError(f"{where}: found the label {strange[0]}, expected 1 present, 0 difficult, −1 absent")
        found = int((labels_NC == 1).any(axis=0).sum())
        if found != expected:
            raise RequestError(
                f"{where}: found {found} classes with an image, expected {expected}; see: massl-bench info {self.name}"
            )


def _difference(found: tuple[str, ...], expected: tuple[str, ...]) -> str:
    if len(found) != len(expected):
        return f"{len(found)}, expected {len(expected)}"
    index = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
    return (
        f"in another order or under other names (class {index}: found {found[index]!r}, expected {expected[index]!r})"
    )


def find_dataset(reference: str, registry: Registry, options: DataOptions, *, fetch: bool) -> Dataset:
    """Returns the dataset of a reference, as its files hold it; arguments and errors as of `open_dataset`."""
    if reference.startswith("folder:"):
        return _open_folder(reference, options)
    if reference.startswith("hf:"):
        return _open_hub(reference, options, fetch)
    if reference.startswith("wds:"):
        return _open_shards(reference, options)
    spec = registry.dataset(reference)
    return _open_registered(spec, options, fetch)


def _open_registered(spec: DatasetSpec, options: DataOptions, fetch: bool) -> Dataset:
    optional = {role for role, split in spec.splits.items() if split.optional}
    wanted = _names(spec.sources)
    columns = Columns(spec.image_column, spec.label_column)
    if spec.reader is not None and spec.reader not in READERS:
        raise RequestError(f"dataset {spec.name}: reader {spec.reader!r} is unknown; there are: {', '.join(READERS)}")

    def find(place: Path) -> Dataset | None:
        sources, layout = spec.sources, find_layout(place, wanted, columns, spec.reader)
        if layout is None and spec.hub is not None and spec.hub.splits is not None:
            hub = Columns(spec.hub.image_column, spec.hub.label_column)
            sources, layout = spec.hub_sources, find_parquet(place, _names(spec.hub_sources), hub)
        if layout is None:
            return None
        return Dataset(
            name=spec.name,
            kind=spec.kind,
            spec=spec,
            layout=layout,
            sources={role: names for role, names in sources.items() if role not in optional or layout.holds(names)},
            memo_dir=options.cache_dir,
        )

    folders = [folder for folder in (spec.name, spec.directory, "") if folder is not None]
    places = [options.data_root / folder for folder in folders] if options.data_root is not None else []
    for place in places:
        # Directly in the data root only the dataset's own layout counts: any class folders there are another dataset's.
        if place == options.data_root and not _has_published(place, spec):
            continue
        found = find(place)
        if found is not None:
            return found
    if not places and spec.reader is not None and READERS[spec.reader].marker is None:
        embedded = find(Path())
        assert embedded is not None
        return embedded
    downloaded = fetch_spec(spec, options.cache_dir, download=fetch and not options.offline)
    if downloaded is not None:
        found = find(downloaded)
        if found is not None:
            # A snapshot of the hub is called after its commit; an unpacked archive has none.
            snapshot = spec.hub is not None and downloaded.name == spec.hub.revision
            return replace(found, revision=downloaded.name if snapshot else None)
        raise RequestError(f"{spec.name}: the download in {downloaded} has none of the known layouts; {spec.by_hand}")
    raise _missing(spec, options)


def _has_published(place: Path, spec: DatasetSpec) -> bool:
    return spec.reader is not None and READERS[spec.reader].locate(place) is not None


def _names(sources: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Returns the source names of all roles, each once."""
    return list(dict.fromkeys(name for names in sources.values() for name in names))


def _missing(spec: DatasetSpec, options: DataOptions) -> MissingDataError:
    if options.data_root is None:
        looked = "no data root given (--data-root or MASSL_BENCH_DATA)"
    else:
        place = options.data_root / (spec.directory or spec.name)
        if place.is_dir():
            inside = sorted(entry.name for entry in place.iterdir())[:5]
            looked = f"{place} holds {', '.join(inside) or 'nothing'}, which is none of the known layouts"
        else:
            looked = f"{place} does not exist"
    own = READERS[spec.reader] if spec.reader is not None else None
    namings = [", ".join(f"{name}-*.parquet" for name in _names(each)) for each in (spec.sources, spec.hub_sources)]
    common = f"{' or '.join(dict.fromkeys(namings))}, a saved datasets directory, class folders"
    expected = f"its own layout (with {own.marker})" if own is not None and own.sole else f"{common} or its own layout"
    advice = (
        "" if options.offline or not (spec.hub or spec.archives) else f"massl-bench datasets fetch {spec.name}, or "
    )
    return MissingDataError(
        f"dataset {spec.name} is not there: {looked}; expected {expected}; next: {advice}{spec.by_hand}"
    )


def _open_folder(reference: str, options: DataOptions) -> Dataset:
    root = Path(reference.removeprefix("folder:")).expanduser()
    if not root.is_dir():
        raise RequestError(f"{reference}: no such directory; expected class folders under train/ and test/ (or val/)")
    sources = _chosen_sources(options)
    options.check_used(reference, used=("--split",), why="class folders or images, which have no columns")
    layout: FolderLayout | FlatLayout | None = find_class_folders(root, _names(sources))
    kind: DatasetKind = "single-label"
    if layout is None:
        present = [name for name in ("train", "test", "val", "validation") if (root / name).is_dir()]
        if present:
            raise RequestError(
                f"{reference}: found {' and '.join(f'{name}/' for name in present)}, expected class folders with "
                f"images under both {' and '.join(f'{source}/' for source in _names(sources))} (val/ serves for test/)"
            )
        options.check_used(reference, why="images without class folders, which are one split")
        layout, kind, sources = FlatLayout("images", root), "unlabelled", {"all": ("all",)}
        if not layout.files():
            raise RequestError(
                f"{reference}: no image in it; expected class folders under train/ and test/ (or val/), or images"
            )
    return Dataset(name=reference, kind=kind, spec=None, layout=layout, sources=sources, memo_dir=options.cache_dir)


def _chosen_sources(options: DataOptions) -> dict[str, tuple[str, ...]]:
    return {role: (name,) for role, name in (options.splits or {"train": "train", "test": "test"}).items()}


def _open_hub(reference: str, options: DataOptions, fetch: bool) -> Dataset:
    repo, _, revision = reference.removeprefix("hf:").partition("@")
    if repo.count("/") > 1 or not repo:
        raise RequestError(f"{reference}: expected hf:ORG/NAME or hf:ORG/NAME@REVISION")
    root = fetch_hub(repo, revision or None, patterns=None, download=fetch and not options.offline)
    if root is None:
        raise MissingDataError(
            f"{reference} is not in the hub's cache on this machine, and downloading was not allowed"
        )
    sources = _chosen_sources(options)
    parquet = find_layout(root, _names(sources), options.columns, None)
    layout = parquet if parquet is not None else SavedLayout("hub", root, options.columns)
    return Dataset(
        name=reference,
        kind="single-label",
        spec=None,
        layout=layout,
        sources=sources,
        memo_dir=options.cache_dir,
        revision=root.name,
    )


def _open_shards(reference: str, options: DataOptions) -> Dataset:
    options.check_used(reference, why="shards of images, which are one split without columns")
    layout = find_shards(reference.removeprefix("wds:"), options.cache_dir)
    return Dataset(
        name=reference,
        kind="unlabelled",
        spec=None,
        layout=layout,
        sources={"all": ("all",)},
        memo_dir=options.cache_dir,
    )
