"""From a reference to a dataset: where it is looked for, and what is said where it is not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from massl_bench.core.directories import check_directory
from massl_bench.core.errors import MissingDataError, RequestError
from massl_bench.core.kinds import DatasetKind
from massl_bench.core.printable import printable
from massl_bench.core.wording import asked
from massl_bench.datasets.columns import Columns
from massl_bench.datasets.copies import with_copies
from massl_bench.datasets.dataset import Dataset
from massl_bench.datasets.fetch import fetch_hub, fetch_spec
from massl_bench.datasets.folders import subfolders
from massl_bench.datasets.images.decoding import MAX_PIXELS, Decoding
from massl_bench.datasets.layout import Layout
from massl_bench.datasets.layouts import (
    DividedLayout,
    FlatLayout,
    PatchesLayout,
    find_class_folders,
    find_layout,
    find_parquet,
)
from massl_bench.datasets.published import READERS
from massl_bench.datasets.saved import SavedLayout
from massl_bench.datasets.shards import find_shards
from massl_bench.specs.dataset import DatasetSpec
from massl_bench.specs.registry import Registry


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where datasets are looked for, and how tables without a spec are read."""

    cache_dir: Path
    data_root: Path | None = None
    offline: bool = False
    columns: Columns = field(default_factory=Columns)
    splits: Mapping[str, str] = field(default_factory=dict)
    """Source names by role, for `folder:` and `hf:`."""
    config: str | None = None
    """Which of several configurations of `hf:` data."""
    split_share: float | None = None
    """Of each class of a folder without splits, what becomes its test split."""
    sample: Mapping[str, int] = field(default_factory=dict)
    """The number of items to draw of a split, by role."""
    sample_seed: int = 0
    """Of that draw."""
    max_pixels: int = MAX_PIXELS
    """Of an image; larger ones are refused."""
    rehash: bool = False
    """Whether files are read again whose hash is remembered."""

    def __post_init__(self) -> None:
        """Raises `RequestError` for numbers that cannot be meant."""
        if self.split_share is not None and not 0 < self.split_share < 1:
            allowed = "a number between 0 and 1, as 0.2 for a fifth"
            raise RequestError(field="split_share", found=self.split_share, allowed=allowed)
        for field_name in ("cache_dir", "data_root"):
            check_directory(getattr(self, field_name), field_name)
        for role, count in self.sample.items():
            if count < 1:
                raise RequestError(field="sample", found=f"{role}={count}", allowed="numbers from 1")
        if self.sample_seed < 0:
            raise RequestError(field="sample_seed", found=self.sample_seed, allowed="a number from 0")
        if self.sample_seed and not self.sample:
            raise RequestError("is of a sample, and none is drawn", field="sample_seed", found=self.sample_seed)
        if self.max_pixels < 1:
            raise RequestError(field="max_pixels", found=self.max_pixels, allowed="a number from 1")

    @property
    def own(self) -> Decoding:
        """How images that no published evaluation reads are decoded: as viewers do, and strictly."""
        return Decoding(upright=True, strict=True, max_pixels=self.max_pixels)

    def check_used(self, reference: str, *, used: tuple[str, ...] = (), why: str) -> None:
        """Raises `RequestError` where an option of how data is read is given, but not used.

        Args:
            reference: the dataset.
            used: those that such a dataset uses.
            why: what it is, that the others mean nothing for it.
        """
        given = {
            "image_column": self.columns.image,
            "label_column": self.columns.label,
            "splits": self.splits,
            "config": self.config,
            "split_share": self.split_share,
        }
        places_of = {"splits": "hf: data and class folders", "split_share": "class folders without train/ and test/"}
        for name, value in given.items():
            if value and name not in used:
                places = places_of.get(name, "hf: data")
                raise RequestError(f"is for {places}; {reference} is {why}: leave it out", field=name)


def open_dataset(reference: str, registry: Registry, options: DataOptions, *, fetch: bool = False) -> Dataset:
    """Returns the dataset of a reference: a registry name, `folder:DIR`, `hf:REPO[@REV]` or `wds:PATTERN`.

    Args:
        reference: what `--dataset` takes.
        registry: the known datasets.
        options: where to look.
        fetch: whether to download what is not on this machine.

    Raises:
        MissingDataError: It is not on this machine, and `fetch` is false or nothing could be downloaded.
        RequestError: The name is unknown, the directory does not hold what it should, or the options are not for such
            data.
    """
    dataset = _open(reference, registry, options, fetch=fetch)
    sample = options.sample
    if dataset.spec is not None and dataset.spec.head is not None:  # what is drawn to train on is its head's
        sample = {role: count for role, count in sample.items() if role in dataset.sources}
    return replace(dataset, sample=sample, sample_seed=options.sample_seed) if sample else dataset


def _open(reference: str, registry: Registry, options: DataOptions, *, fetch: bool) -> Dataset:
    """Returns the whole dataset; arguments and errors as of `open_dataset`."""
    spec = registry.dataset(reference) if reference in registry.datasets else None
    if spec is not None:
        options.check_used(reference, why="of the registry, which says its columns and splits")
    if spec is None or spec.patches is None or spec.copies is None:
        return _find(reference, registry, options, fetch=fetch)
    patches = Dataset(
        name=spec.name,
        kind="unlabelled",
        spec=None,
        layout=PatchesLayout("embedded", Path(), spec.patches),
        sources={"all": ("all",)},
        memo_dir=options.cache_dir,
    )
    return with_copies(patches, spec.copies, registry, spec)


def _find(reference: str, registry: Registry, options: DataOptions, *, fetch: bool) -> Dataset:
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
            decoding=Decoding(upright=spec.orientation == "upright", max_pixels=options.max_pixels, border=spec.border),
            rehash=options.rehash,
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
        looked = f"no data root given ({asked('data_root')} or MASSL_BENCH_DATA)"
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
        raise RequestError(
            f"{printable(reference)}: no such directory; expected class folders under train/ and test/ (or val/)"
        )
    used = ("splits", "split_share")
    options.check_used(printable(reference), used=used, why="class folders or images, which have no columns")
    sources = _chosen_sources(options)
    kind: DatasetKind = "single-label"
    layout: Layout | None = None if options.split_share is not None else find_class_folders(root, _names(sources))
    if layout is None:
        _check_no_half(reference, root, sources, options)
        if options.split_share is not None:
            options.check_used(printable(reference), used=("split_share",), why=f"divided by {asked('split_share')}")
            layout, sources = _divided(reference, root, options.split_share), {"train": ("train",), "test": ("test",)}
        else:
            options.check_used(printable(reference), why="images without class folders, which are one split")
            layout, kind, sources = FlatLayout("images", root), "unlabelled", {"all": ("all",)}
            if not layout.files():
                raise RequestError(
                    f"{printable(reference)}: no image in it{_only(layout)}; expected class folders under train/ and "
                    "test/ (or val/), or images"
                )
    return _own_dataset(reference, kind, layout, sources, options)


def _only(layout: Layout) -> str:
    found = layout.left_out()
    return f" ({found})" if found else ""


def _check_no_half(reference: str, root: Path, sources: Mapping[str, tuple[str, ...]], options: DataOptions) -> None:
    """Raises `RequestError` for a folder that has some splits and not those that are needed, or is to be divided."""
    present = [name for name in ("train", "test", "val", "validation") if (root / name).is_dir()]
    if not present:
        return
    there = " and ".join(f"{name}/" for name in present)
    if options.split_share is not None:
        raise RequestError(
            f"divides a folder of class folders, and {printable(reference)} has {there}: leave it out, "
            f"or divide one of them: folder:{printable(root / present[0])}",
            field="split_share",
        )
    raise RequestError(
        f"{printable(reference)}: found {there}, expected class folders with "
        f"images under both {' and '.join(f'{source}/' for source in _names(sources))} (val/ serves for test/); to "
        f"divide one folder of classes: folder:{printable(root / present[0])} with {asked('split_share', 0.2)}"
    )


def _divided(reference: str, root: Path, share: float) -> DividedLayout:
    classes = subfolders(root)
    if len(classes) < 2:
        found = ", ".join(map(printable, classes)) or "none"
        raise RequestError(
            f"divides the images of class folders, and {printable(reference)} has {len(classes)} (found: {found}); "
            "expected at least two, with images in each",
            field="split_share",
        )
    return DividedLayout("divided", root, share)


def _own_dataset(
    reference: str,
    kind: DatasetKind,
    layout: Layout,
    sources: Mapping[str, tuple[str, ...]],
    options: DataOptions,
    revision: str | None = None,
) -> Dataset:
    """Returns data that no registry knows, read as viewers show it."""
    return Dataset(
        name=printable(reference),
        kind=kind,
        spec=None,
        layout=layout,
        sources=sources,
        memo_dir=options.cache_dir,
        revision=revision,
        decoding=options.own,
        rehash=options.rehash,
    )


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
    options.check_used(
        reference,
        used=("image_column", "label_column", "splits", "config"),
        why="a repository, which has splits of its own",
    )
    sources = _chosen_sources(options)
    names = _names(sources)
    layout = find_layout(root, names, options.columns, None, options.config)
    if layout is None:
        layout = SavedLayout("hub", root, options.columns, tuple(names), options.config, options.cache_dir)
    return _own_dataset(reference, "single-label", layout, sources, options, root.name)


def _open_shards(reference: str, options: DataOptions) -> Dataset:
    options.check_used(reference, why="shards of images, which are one split without columns")
    layout = find_shards(reference.removeprefix("wds:"), options.cache_dir)
    return _own_dataset(reference, "unlabelled", layout, {"all": ("all",)}, options)
