"""The registry: what its files hold, and which of them there are. A broken file is never skipped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from massl_bench.errors import SpecError, unknown_name
from massl_bench.plugins import registry_roots
from massl_bench.storage import sha256_of
from massl_bench.toml_files import Spec, read_toml
from massl_bench.types import (
    LABELLED_KINDS,
    DatasetKind,
    Listed,
    Pooling,
    Preprocessing,
    PreprocessingOverride,
    StrictModel,
)

DEFAULT_MODEL = "massl-small-cifar10"
"""The manifest of the bundled weights, which are measured where no model is named."""

_YOUNGER = frozenset({"own_size_below", "pooling", "copies"})
"""Keys of a task that count in its hash only where they are given."""


class TaskSpec(StrictModel):
    """WHAT is measured: one protocol setting. A changed number bumps `version`."""

    name: str
    version: int = Field(ge=1)
    protocol: str
    """The module of `massl_bench.protocols` that computes it."""
    kinds: Listed[tuple[DatasetKind, ...]] = Field(min_length=1)
    """The kinds of dataset that it applies to."""
    headline: str
    """The metric that a leaderboard shows."""
    seed: int = Field(ge=0)
    params: dict[str, Any]
    """Every number of the protocol; checked by the protocol module's `Params`."""
    preprocessing: PreprocessingOverride | None = None
    own_size_below: int | None = Field(default=None, gt=0)
    """Models whose own images are smaller, in pixels, keep their size under `preprocessing`: 32 × 32 pixels are what
    `pixels` is, and a ViT of patches made for tiny images would have thousands of tokens."""
    pooling: Pooling | None = None
    """What becomes the feature, where it is not the model's own; a network without tokens keeps its own."""
    copies: str | None = None
    """For images that nobody made copies of: the file of `tasks/copies/` that says how the suite makes them."""
    summary: str
    citation: str

    @property
    def spec_hash(self) -> str:
        """Hex sha256 of all that can move a result: everything but the texts for people."""
        content = self.model_dump(mode="json", exclude={"summary", "citation"})
        # Younger than the first tasks, whose hashes do not know of them.
        return sha256_of({key: value for key, value in content.items() if key not in _YOUNGER or value is not None})


SplitNames = str | Annotated[Listed[tuple[str, ...]], Field(min_length=1)]
"""What a split is called in a source (`validation`, …); several names: one after the other."""


def _in_order(names: SplitNames) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


class SplitSpec(StrictModel):
    """One split of a dataset."""

    size: int | None = Field(default=None, gt=0)
    """None where copies of the dataset differ in what they hold: as many as are found."""
    source: SplitNames
    """Its names in every copy but the hub repository's, where that has its own."""
    optional: bool = False
    """Whether a copy of the dataset may lack it."""
    validation: str | None = None
    """The last of several sources, where its publisher means it for choosing parameters (`val`)."""

    @model_validator(mode="after")
    def _validation_is_the_last_of_several(self) -> SplitSpec:
        if self.validation is not None and (len(self.sources) < 2 or self.sources[-1] != self.validation):
            raise ValueError(f"validation: expected the last of several sources, found {self.validation!r}")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of `source`, in order."""
        return _in_order(self.source)


class HubSource(StrictModel):
    """A dataset repository on the hub, at one pinned commit."""

    repo: str
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    splits: dict[str, SplitNames] | None = None
    """By role, where its parquet files are not called as the splits' `source`: how they are called."""
    image_column: str | None = None
    label_column: str | None = None
    """Of these parquet files, in place of the dataset's own columns."""

    @model_validator(mode="after")
    def _columns_beside_splits(self) -> HubSource:
        if self.splits is None and (self.image_column, self.label_column) != (None, None):
            raise ValueError("image_column, label_column: belong to splits; without it, give the dataset's own columns")
        return self


class ArchiveSource(StrictModel):
    """A file of the publisher: an archive, which is unpacked, or a table, which is kept as it is."""

    url: str
    md5: str = Field(pattern=r"^[0-9a-f]{32}$")

    @property
    def file_name(self) -> str:
        """What it is called, without its address."""
        return self.url.rpartition("/")[2]


class PatchGrid(StrictModel):
    """How photographs are cut into square patches, from the upper left corner; what is left over is not used."""

    side: int = Field(gt=0)
    """In pixels."""
    stride: int = Field(gt=0)
    """Pixels from one patch to the next; less than `side`: they overlap."""


class DatasetSpec(StrictModel):
    """One dataset: where it comes from, how it is split and what it must contain."""

    name: str
    kind: DatasetKind
    num_classes: int | None = Field(default=None, gt=0)
    """Of the kinds that have labels: there it is needed, elsewhere it means nothing."""
    class_names: Listed[tuple[str, ...]] | None = None
    """In label order; where a source carries names too, the two orders must agree."""
    splits: dict[str, SplitSpec] = Field(min_length=1)
    """By role: `train`, `test`, …"""
    published_sizes: dict[str, int] = Field(default_factory=dict)
    """Of copy detection, where splits have no `size`: the number of `originals`, and of copies by block. Another number
    is measured all the same, and told."""
    image_column: str | None = None
    label_column: str | None = None
    hub: HubSource | None = None
    archives: Listed[tuple[ArchiveSource, ...]] = ()
    """All of them are needed; they are unpacked into one directory."""
    directory: str | None = None
    """The folder of the data root that it shares with another dataset, of whose files it is a part."""
    reader: str | None = None
    """Reads the dataset's own published layout, or the data that a library embeds."""
    patches: PatchGrid | None = None
    """For patches of the two photographs that scikit-learn embeds, in place of a reader."""
    copies: str | None = None
    """The file of `tasks/copies/` that says how the suite makes copies of the patches; its splits follow from it."""
    metric: Literal["top1", "mean_per_class", "map"]
    """What papers report of it, for people: records hold all metrics, and tasks and suites name the one they show."""
    summary: str
    notes: str | None = None
    """What must be known to compare numbers: splits, copies and conventions that others use."""
    licence: str
    citation: str
    by_hand: str
    """How to place the dataset without this tool."""

    @model_validator(mode="after")
    def _classes_fit(self) -> DatasetSpec:
        if self.kind in LABELLED_KINDS and self.num_classes is None:
            raise ValueError(f"num_classes: is missing, and a {self.kind} dataset has classes")
        if self.kind not in LABELLED_KINDS and (self.num_classes, self.class_names) != (None, None):
            raise ValueError(f"num_classes, class_names: expected neither, as a {self.kind} dataset has no classes")
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"class_names: found {len(self.class_names)} names, expected num_classes = {self.num_classes}"
            )
        return self

    @property
    def metric_in_words(self) -> str:
        """The metric, who reports it, and what else a record holds."""
        match self.metric:
            case "top1":
                return "top-1 accuracy, as papers report it; records hold the mean per class too"
            case "mean_per_class":
                return "mean per class, as Kornblith et al. (CVPR 2019) report it; CARP: top-1; records hold both"
            case "map":
                return "mean average precision"

    @model_validator(mode="after")
    def _hub_has_every_split(self) -> DatasetSpec:
        if self.hub is not None and self.hub.splits is not None and set(self.hub.splits) != set(self.splits):
            raise ValueError(f"hub.splits: expected {', '.join(self.splits)}, got {', '.join(self.hub.splits)}")
        for role, split in self.splits.items():
            if split.validation is not None and len(self.hub_sources[role]) < 2:
                raise ValueError(f"hub.splits.{role}: expected several names, the last of them of the validation part")
        return self

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """The names of each split, in order, by role."""
        return {role: split.sources for role, split in self.splits.items()}

    @property
    def hub_sources(self) -> dict[str, tuple[str, ...]]:
        """As `sources`, in the hub repository."""
        if self.hub is None or self.hub.splits is None:
            return self.sources
        return {role: _in_order(names) for role, names in self.hub.splits.items()}

    @model_validator(mode="after")
    def _copies_fit(self) -> DatasetSpec:
        if (self.patches is None) != (self.copies is None):
            raise ValueError("patches and copies belong together: one of them is missing")
        if self.patches is not None and (self.kind != "copy-detection" or self.reader is not None):
            raise ValueError('patches: expected kind = "copy-detection" and no reader')
        if self.published_sizes and self.kind != "copy-detection":
            raise ValueError(f"published_sizes: a {self.kind} dataset has none; give its splits their size")
        return self


class SuiteCell(StrictModel):
    """One column of a suite."""

    task: str
    dataset: str
    headline: str | None = None
    """The metric that the column shows, where not the task's own headline; records are the task's all the same."""


class SuiteSpec(StrictModel):
    """An ordered list of cells: the columns of one leaderboard."""

    name: str
    summary: str
    cells: Listed[tuple[SuiteCell, ...]] = Field(min_length=1)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(task, dataset) of every cell, in order."""
        return [(cell.task, cell.dataset) for cell in self.cells]

    @property
    def headlines(self) -> dict[tuple[str, str], str]:
        """The metrics that the suite shows in place of a task's own headline, by (task, dataset)."""
        return {(cell.task, cell.dataset): cell.headline for cell in self.cells if cell.headline is not None}

    @model_validator(mode="after")
    def _no_cell_twice(self) -> SuiteSpec:
        pairs = self.pairs
        twice = [pair for number, pair in enumerate(pairs) if pair in pairs[:number]]
        if twice:
            raise ValueError(f"cells: {twice[0][0]} on {twice[0][1]} is listed twice: a column shows one metric")
        return self


class ManifestSpec(StrictModel):
    """WHICH model: everything that is needed to load one checkpoint and to feed it."""

    name: str
    file: str | None = None
    """Relative to the manifest, or absolute."""
    url: str | None = None
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    checkpoint_key: str | None = None
    """Where the backbone's tensors lie inside the file, where there is more than one place."""
    arch: str | None = None
    preprocessing: Preprocessing | None = None
    summary: str
    licence: str
    citation: str
    training: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _some_file(self) -> ManifestSpec:
        if self.file is None and self.url is None:
            raise ValueError("one of file and url is needed")
        return self


def packaged_root() -> Path:
    """Returns what holds `tasks/`, `weights/` and `results/`: a directory of the package, or the checkout around it."""
    package = Path(__file__).resolve().parent
    installed = package / "registry"
    return installed if installed.is_dir() else package.parent


class Registry:
    """The tasks, datasets, suites and manifests that there are: the user's own, and the installed ones.

    The user's own hide installed ones of the same name, an earlier directory hides a later one. Two installed ones of
    the same name (this package's, and those of plugins) are an error: nobody would have chosen between them.

    Args:
        include: the user's directories, laid out as this project's root (`tasks/`, `tasks/datasets/`,
            `tasks/suites/`).
        weights_dir: searched for manifests before all others.

    Raises:
        SpecError: A directory, the user's or a plugin's, has no folder `tasks/`.
    """

    def __init__(self, include: Sequence[Path] = (), weights_dir: Path | None = None) -> None:
        for root in include:
            if not (root / "tasks").is_dir():
                raise SpecError(f"include path {root}: expected a directory with a folder tasks/ inside")
        self._include = tuple(include)
        self._weights_dir = weights_dir
        self._plugins = registry_roots()

    def _files(self, folder: str, first: Path | None = None) -> dict[str, Path]:
        """Returns the TOML files of one folder of every root, and of the directory `first`, by name."""
        found: dict[str, Path] = {}
        for root in (packaged_root(), *self._plugins):
            for path in (root / folder).glob("*.toml"):
                if path.stem in found:
                    raise SpecError(
                        f"{self._plugins[root]}: {path}: the name is taken by {found[path.stem]}; rename one"
                    )
                found[path.stem] = path
        own = [*reversed([root / folder for root in self._include]), *([first] if first is not None else [])]
        for directory in own:
            found |= {path.stem: path for path in directory.glob("*.toml")}
        return dict(sorted(found.items()))

    @cached_property
    def tasks(self) -> dict[str, Path]:
        """The task files by name."""
        return self._files("tasks")

    @cached_property
    def datasets(self) -> dict[str, Path]:
        """The dataset files by name."""
        return self._files("tasks/datasets")

    @cached_property
    def suites(self) -> dict[str, Path]:
        """The suite files by name."""
        return self._files("tasks/suites")

    @cached_property
    def copies(self) -> dict[str, Path]:
        """The files that describe generated copies, by name."""
        return self._files("tasks/copies")

    @cached_property
    def manifests(self) -> dict[str, Path]:
        """The manifests of models by name."""
        return self._files("weights", self._weights_dir)

    def task(self, name: str) -> TaskSpec:
        """Returns one task; raises `RequestError` with near names, `SpecError` for a malformed file."""
        return self._load("task", name, self.tasks, TaskSpec)

    def tasks_for(self, kind: DatasetKind) -> list[str]:
        """Returns the names of the tasks that apply to a kind of dataset; raises as `task`."""
        return [name for name in self.tasks if kind in self.task(name).kinds]

    def dataset(self, name: str) -> DatasetSpec:
        """Returns one dataset; raises as `task`."""
        return self._load("dataset", name, self.datasets, DatasetSpec, "or folder:DIR, hf:REPO")

    def suite(self, name: str) -> SuiteSpec:
        """Returns one suite; raises as `task`."""
        return self._load("suite", name, self.suites, SuiteSpec)

    def manifest(self, name: str) -> ManifestSpec:
        """Returns one manifest; raises as `task`."""
        return self._load("model", name, self.manifests, ManifestSpec)

    def _load(self, kind: str, name: str, files: dict[str, Path], model: type[Spec], hint: str = "") -> Spec:
        if name not in files:
            raise unknown_name(kind, name, files, hint)
        try:
            return read_toml(files[name], model)
        except SpecError as error:
            plugin = next((plugin for root, plugin in self._plugins.items() if files[name].is_relative_to(root)), None)
            raise error if plugin is None else SpecError(f"{plugin}: {error}") from None
