"""A dataset: its splits, where it comes from, and how it may lie on disk."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Literal

from pydantic import Field, model_validator

from massl_bench.core.kinds import LABELLED_KINDS, DatasetKind
from massl_bench.core.strict import Listed, Some, StrictModel

SplitNames = str | Listed[Some[str]]
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


class HeadSpec(StrictModel):
    """The head that a test set tests: one that is trained on another dataset."""

    dataset: str
    """On whose training split it is trained."""
    classes: Literal["same", "named", "published"] | dict[str, Listed[tuple[str, ...]]] = "same"
    """How the classes of the two stand to each other: `same` classes in the same order; `named`: each has the name of
    one of the head's; `published`: as the test set's own layout says; or a table of the head's classes by name."""
    others_compete: bool = False
    """Whether classes of the head that are none of the test set's may be predicted, and are wrong then."""


class CorruptionsSpec(StrictModel):
    """Of a test set whose sources are called `corruption/severity`: the same images under each corruption."""

    reference: str | None = None
    """The network whose errors normalise the mean corruption error."""
    reference_errors: dict[str, float] | None = None
    """Its mean error over the severities, a fraction, by corruption."""

    @model_validator(mode="after")
    def _name_and_errors(self) -> CorruptionsSpec:
        if (self.reference is None) != (self.reference_errors is None):
            raise ValueError("reference and reference_errors belong together: one of them is missing")
        return self


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
    head: HeadSpec | None = None
    """Of a test set: what its head is trained on. It has a test split and nothing else."""
    any_of_several: bool = False
    """Of a test set: an image has several labels, and a prediction of any of them is right."""
    corruptions: CorruptionsSpec | None = None
    cropped: bool = False
    """Whether its images are the centre crops already: they become a model's input without losing a border."""
    border: int = Field(default=0, ge=0)
    """Pixels that are cut off each side of an image before anything else."""
    orientation: Literal["stored", "upright"] = "stored"
    """Of images with an EXIF orientation: as the published evaluations read them, or turned as viewers show them."""
    ignored_class: int | None = Field(default=None, ge=0)
    """Of a segmentation dataset: the class that stands for all others, whose pixels do not count in the test."""
    metric: Literal["top1", "mean_per_class", "map", "miou"]
    """What papers report of it, for people: records hold all metrics, and tasks and suites name the one they show."""
    summary: str
    notes: str | None = None
    """What must be known to compare numbers: splits, copies and conventions that others use."""
    licence: str
    citation: str
    by_hand: str
    """How to place the dataset without this tool."""

    @model_validator(mode="after")
    def _stays_in_the_data_root(self) -> DatasetSpec:
        for key, name in (("directory", self.directory), ("name", self.name)):
            parts = PurePosixPath((name or "").replace("\\", "/"))
            if parts.is_absolute() or PureWindowsPath(name or "").drive or ".." in parts.parts:
                raise ValueError(
                    f"{key}: expected a folder of the data root, as a relative path without .., got {name!r}"
                )
        return self

    @model_validator(mode="after")
    def _classes_fit(self) -> DatasetSpec:
        with_classes = self.kind in LABELLED_KINDS or self.kind == "segmentation"
        if with_classes and self.num_classes is None:
            raise ValueError(f"num_classes: is missing, and a {self.kind} dataset has classes")
        if not with_classes and (self.num_classes, self.class_names) != (None, None):
            raise ValueError(f"num_classes, class_names: expected neither, as a {self.kind} dataset has no classes")
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"class_names: found {len(self.class_names)} names, expected num_classes = {self.num_classes}"
            )
        return self

    @model_validator(mode="after")
    def _tests_a_head(self) -> DatasetSpec:
        given = {"any_of_several": self.any_of_several, "corruptions": self.corruptions, "cropped": self.cropped}
        extra = next((key for key, value in given.items() if value), None)
        if self.head is None and extra is not None:
            raise ValueError(f"{extra}: is for the test set of a head, and head is missing")
        if self.head is not None and (self.kind != "single-label" or set(self.splits) != {"test"}):
            raise ValueError('head: expected kind = "single-label" and the one split test')
        if self.corruptions is None:
            return self
        blocks = [name.partition("/") for name in self.splits["test"].sources]
        wrong = next(("".join(block) for block in blocks if not block[2].isdecimal()), None)
        if wrong is not None:
            raise ValueError(f"splits.test.source: expected names as fog/3, of corruption and severity, got {wrong!r}")
        errors = self.corruptions.reference_errors
        if errors is not None and set(errors) != {name for name, _, _ in blocks}:
            raise ValueError("corruptions.reference_errors: expected one for each corruption of splits.test.source")
        return self

    def reading(self) -> dict[str, Any]:
        """Returns what decides, beyond the files, how a test set is read and judged; nothing for other datasets."""
        told: dict[str, Any] = {"border": self.border} if self.border else {}
        if self.head is None:
            return told
        keys = {"head", "any_of_several", "corruptions", "cropped"}
        return told | self.model_dump(mode="json", include=keys)

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
            case "miou":
                return "mean intersection over union of the classes"

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
        if self.ignored_class is not None and (
            self.kind != "segmentation" or self.ignored_class >= (self.num_classes or 0)
        ):
            raise ValueError(f"ignored_class: expected a class of a segmentation dataset, found {self.ignored_class}")
        if self.published_sizes and self.kind != "copy-detection":
            raise ValueError(f"published_sizes: a {self.kind} dataset has none; give its splits their size")
        return self
