"""The values that cross module boundaries. Shapes: N items, D feature dimensions, C classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:  # numpy is a third of the start-up time of the commands that only list
    import numpy as np
    from numpy.typing import NDArray

from massl_bench.core.progress import Report, report_nothing
from massl_bench.core.settings import Augmentation

IGNORED = 255
"""The value of a mask's pixels that no class is known of."""

LabelCoding = Literal["0/1", "-1/0/1"]
"""How an array [N, C] says which classes an item shows: 0 absent, 1 present; or −1 absent, 0 difficult, 1 present."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Resampled:
    """What a metric is of each bootstrap resample of the items.

    Attributes:
        values: float64 [R].
        key: hex sha256 of what was drawn, and of the truth of the items: of two models with the same key, each pair of
            values is of the same items.
    """

    values: NDArray[np.float64]
    key: str


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one cell; a fraction in [0, 1] unless the metric's definition says otherwise."""

    value: float
    ci95: tuple[float, float] | None = None
    """95 % interval: of a single measurement over the test items (bootstrap, if nothing else is said), of the mean of
    draws over the draws."""
    std: float | None = None
    """Standard deviation over `per_seed`, for what is sampled."""
    per_seed: tuple[float, ...] | None = None
    details: Mapping[str, float | int | str] = field(default_factory=dict)
    """What stands behind the value: the chosen strength, how many queries were left out, whether draws were given."""
    items: NDArray[Any] | None = field(default=None, compare=False, repr=False)
    """Where the value is a mean over items: what each got, [N] in the order of the test split (or of the queries that
    have something to find): bool for right or wrong, float64 otherwise. Models are compared by it."""
    predicted: NDArray[Any] | None = field(default=None, compare=False, repr=False)
    """The class that each of these items was given, whole numbers [N]; −1 for none."""

    resampled: Resampled | None = field(default=None, compare=False, repr=False)
    """Where the value is no mean over items: the bootstrap resamples that its interval is of. Models are compared by
    them."""

    def __float__(self) -> float:
        """Returns the value."""
        return self.value


class Scores(dict[str, Score]):
    """The scores of a task by metric name, and what a protocol says beside them.

    Attributes:
        notes: what was assumed, left out or chosen in a way that a reader should know: one sentence each.
        selection: the values, as fractions, among which a hyper-parameter was chosen, by that parameter.
    """

    def __init__(
        self,
        scores: Mapping[str, Score] = MappingProxyType({}),
        *,
        notes: Sequence[str] = (),
        selection: Mapping[float, float] = MappingProxyType({}),
    ) -> None:
        super().__init__(scores)
        self.notes = tuple(notes)
        self.selection = dict(selection)


class Part(NamedTuple):
    """One of several features that stand one after the other in a bank."""

    name: str
    """`b3` for that of the third block."""
    width: int


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureBank:
    """The raw features of one split, in the dataset's order.

    Attributes:
        features: float32 [N, D], finite; possibly memory-mapped and read-only.
        labels: int64 [N] class indices; int8 [N, C] with 1 present, 0 difficult, −1 absent; None without labels.
        ids: bytes [N], UTF-8: where each item comes from (file, or file and row).
        class_names: C names in the order of the label indices, or None where only the number is known.
        num_classes: C, None without labels.
        key: the content key (hex sha256) of all that could change the arrays; None for arrays that were handed in.
        skipped: what was left out as corrupt, by `--skip-corrupt`.
        validation_from: the first row of the publisher's validation part, with which a training split may end; None
            where it has no such part.
        parts: where the features are several, one after the other: their names and widths, whose sum is D.
        on_device: the same features on the GPU that they were handed in on, a tensor of torch; None elsewhere.
    """

    features: NDArray[np.float32]
    labels: NDArray[Any] | None
    ids: NDArray[np.bytes_]
    class_names: tuple[str, ...] | None = None
    num_classes: int | None = None
    key: str | None = None
    skipped: tuple[str, ...] = ()
    validation_from: int | None = None
    parts: tuple[Part, ...] = ()
    on_device: Any = None

    @classmethod
    def from_arrays(
        cls, features: NDArray[Any], labels: NDArray[Any] | None = None, *, label_coding: LabelCoding = "-1/0/1"
    ) -> FeatureBank:
        """Returns a bank of arrays that were made elsewhere.

        Args:
            features: [N, D], any floating type, finite; kept as float32.
            labels: whole numbers: class indices from 0, [N], or [N, C] with 1 present, 0 difficult, −1 absent.
            label_coding: what labels [N, C] mean: `0/1` where 0 is absent.

        Raises:
            ValueError: The shapes do not fit, a feature is not finite, or labels are not whole numbers of that range.
        """
        import numpy as np

        values = np.ascontiguousarray(features, dtype=np.float32)
        if values.ndim != 2 or not np.isfinite(values).all():
            raise ValueError(f"features: expected finite numbers [N, D], found shape {list(values.shape)}")
        num_classes = None
        if labels is not None:
            labels = np.asarray(labels)
            if not np.issubdtype(labels.dtype, np.integer) or labels.ndim not in (1, 2):
                raise ValueError(
                    f"labels: expected whole numbers [N] or [N, C], found {labels.dtype} {list(labels.shape)}"
                )
            if len(labels) != len(values):
                raise ValueError(f"labels: expected {len(values)}, found {len(labels)}")
            lowest, highest = int(labels.min(initial=0)), int(labels.max(initial=-1))
            if labels.ndim == 1 and lowest < 0:
                raise ValueError(f"labels: expected class indices from 0, found {lowest}")
            if labels.ndim == 2 and (lowest < int(label_coding.partition("/")[0]) or highest > 1):
                meaning = "1 present, 0 absent" if label_coding == "0/1" else "1 present, 0 difficult, −1 absent"
                raise ValueError(f"labels: expected {meaning}, found {highest if highest > 1 else lowest}")
            if labels.ndim == 2 and label_coding == "0/1":
                labels = np.where(labels == 1, 1, -1)
            num_classes = labels.shape[1] if labels.ndim == 2 else highest + 1
            labels = labels.astype(np.int8 if labels.ndim == 2 else np.int64, copy=False)
        ids = np.array([str(row).encode() for row in range(len(values))], dtype=np.bytes_)
        return cls(features=values, labels=labels, ids=ids, num_classes=num_classes)

    def __len__(self) -> int:
        """Returns the number of items, N."""
        return int(self.features.shape[0])


@dataclass(frozen=True)
class SearchBackend:
    """An implementation of exact nearest-neighbour search; all return the same neighbours."""

    name: Literal["faiss-cpu", "torch"]
    device: str = "cpu"
    """`cpu` or `cuda:i`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class QueryTruth:
    """What a landmark query should find: database rows by how well they show it (Radenović et al., CVPR 2018)."""

    easy: NDArray[np.int64]
    hard: NDArray[np.int64]
    junk: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Raises `ValueError` where a row is in two of the lists: it cannot be to find and to pass over at once."""
        for one, other in combinations(("easy", "hard", "junk"), 2):
            both = set(getattr(self, one).tolist()) & set(getattr(self, other).tolist())
            if both:
                raise ValueError(f"image {min(both)} is both {one} and {other}")


@dataclass(frozen=True, kw_only=True, eq=False)
class CopyTruth:
    """Which original each copy was made of."""

    original: NDArray[np.int64]
    """int64 [Q], rows of the originals; −1 for a query that is a copy of none of them."""
    block: NDArray[np.str_]
    """[Q], the kind of change (`strong`, `crops/10`, …)."""
    missing_blocks: tuple[str, ...] = ()
    """Kinds of change that the dataset has as published, and this copy of it lacks."""
    unlike_published: tuple[str, ...] = ()
    """What this copy holds another number of: `strong: 100 of 229`."""


GroundTruth = Sequence[QueryTruth] | CopyTruth
"""What the queries of retrieval or copy detection should find, in the order of the queries."""


@dataclass(frozen=True, kw_only=True)
class Corruptions:
    """The blocks of a test split that shows the same images under each corruption, at each severity.

    The images stand in the same order in each block.
    """

    blocks: tuple[tuple[str, int], ...]
    """(corruption, severity), in the order of the rows."""
    num_images: int
    """Of each block."""
    reference: Mapping[str, float] | None = None
    """The mean error, over the severities, of the network that corruption errors are divided by."""


@dataclass(frozen=True, kw_only=True)
class HeadTest:
    """How a test split is judged whose head was trained on another dataset. Shapes: N test items, C classes."""

    members: tuple[tuple[int, ...], ...] | None = None
    """For each class of the test split, the classes of the head that are right for it; None: the same classes."""
    others_compete: bool = False
    """Whether the head's other classes may be predicted, which is wrong then, or are left out of the ranking."""
    any_of_several: bool = False
    """Whether labels are int8 [N, C], and each class that an item shows (1) is right for it."""
    corruptions: Corruptions | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewPlan:
    """The training views that a protocol wants, each epoch in a new order."""

    rows: NDArray[np.int64]
    """[n], the items of the training split that are seen once in every epoch."""
    num_epochs: int
    batch_size: int
    """Of the training; the last batch of an epoch may be smaller."""
    augmentation: Augmentation
    seed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewBatch:
    """One training batch."""

    features: NDArray[np.float32]
    """[B, D], finite; of protocols that read tokens [B, L, D]."""
    rows: NDArray[np.int64]
    """[B], the items."""


class TrainingViews(Protocol):
    """The training split of a protocol that runs the backbone again, on augmented views."""

    @property
    def labels(self) -> NDArray[Any]:
        """The labels of all items, as in a bank."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names in the order of the label indices, where they are known."""

    @property
    def validation_from(self) -> int | None:
        """The first item of the publisher's validation part, with which the split may end."""

    def epochs(self, plan: ViewPlan) -> Iterator[Iterator[ViewBatch]]:
        """Yields the batches of one epoch after the other; each epoch is read to its end.

        What is drawn is a function of the plan's seed, the epoch and the item: nothing else changes a view.
        """

    def plain(self, rows: NDArray[np.int64]) -> Iterator[ViewBatch]:
        """Yields the features of items [n] in their order as a bank would have them, without augmentation."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseBatch:
    """Some images as patches, with the classes of their pixels."""

    features: NDArray[np.float32]
    """[B, L, D]: L = n · n patches, row by row."""
    masks: NDArray[np.uint8]
    """[B, S, S], the classes of the pixels that the network saw; `IGNORED` for none."""


@runtime_checkable
class DenseViews(Protocol):
    """A split of images with a mask each."""

    def __len__(self) -> int:
        """Returns the number of images."""

    def dense(self, plan: ViewPlan | None) -> Iterator[DenseBatch]:
        """Yields the images as they are, in their order; under a plan, its views of all epochs, one after the other."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationData:
    """What a protocol sees: the banks by role (`train`, `test`, …) and where the search runs."""

    banks: Mapping[str, FeatureBank]
    num_classes: int | None
    backend: SearchBackend = SearchBackend("faiss-cpu")
    """Where the neighbour search runs."""
    ground_truth: GroundTruth | None = None
    """What retrieval and copy detection should find."""
    draws: Mapping[tuple[int, int], NDArray[np.int64]] = field(default_factory=dict)
    """Training rows by (k, run), for few-shot; they were handed in, and take the place of sampling."""
    views: TrainingViews | None = None
    """In place of the bank of the training split, for protocols that run the backbone on augmented views."""
    streams: Mapping[str, TrainingViews] = field(default_factory=dict)
    """In place of the banks of other splits, for protocols whose features are too many to be kept (tokens)."""
    dense: Mapping[str, DenseViews] = field(default_factory=dict)
    """The splits of a segmentation dataset."""
    ignored_class: int | None = None
    """A class of a segmentation dataset whose pixels do not count in the test."""
    head_test: HeadTest | None = None
    """For a test split of another dataset than the training split's."""
    report: Report = report_nothing
    """Is told how far a long computation is; nothing depends on it."""
