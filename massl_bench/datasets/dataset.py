"""A dataset that is on this machine: fingerprinted, and checked against what its spec promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from massl_bench.core.errors import RequestError
from massl_bench.core.files import read_memo, sha256_of, write_memo
from massl_bench.core.kinds import LABELLED_KINDS, DatasetKind
from massl_bench.core.printable import printable
from massl_bench.core.values import CopyTruth, GroundTruth
from massl_bench.core.wording import asked
from massl_bench.datasets.blocks import sampled_in_blocks
from massl_bench.datasets.columns import Columns
from massl_bench.datasets.fingerprint import fingerprint_files
from massl_bench.datasets.images.decoding import STORED, Decoding
from massl_bench.datasets.layout import Layout
from massl_bench.datasets.layouts import PatchesLayout
from massl_bench.datasets.left_out import LeftOut
from massl_bench.datasets.sampling import balanced_rows, plain_rows
from massl_bench.datasets.splits import ImageSplit, JoinedSplit, Labels, SubsetSplit
from massl_bench.specs.dataset import DatasetSpec, SplitSpec

TRAINING_ROLES = ("train", "val")
"""The splits that a test set has of the dataset whose head it tests."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset that is on this machine.

    Attributes:
        name: the reference, as the user gave it.
        spec: what it must contain; None for `folder:` and `hf:`.
        sources: the source names of each split, in order, by role.
        decoding: how its images become pixels.
    """

    name: str
    kind: DatasetKind
    spec: DatasetSpec | None
    layout: Layout
    sources: Mapping[str, tuple[str, ...]]
    memo_dir: Path
    revision: str | None = None
    decoding: Decoding = STORED
    sample: Mapping[str, int] = field(default_factory=dict)
    """The number of items drawn of a split, by role; of others, all are taken."""
    sample_seed: int = 0
    """Of that draw."""
    rehash: bool = False
    """Whether files are read again whose hash is remembered."""
    head: Dataset | None = None
    """Of a test set: the dataset whose head it tests."""

    @property
    def roles(self) -> tuple[str, ...]:
        """The splits that there are, with those of the dataset whose head this one tests."""
        of_head = self.head.sources if self.head is not None else {}
        return tuple(dict.fromkeys((*(role for role in of_head if role in TRAINING_ROLES), *self.sources)))

    def holding(self, role: str) -> Dataset:
        """Returns the dataset that a split is of: this one, or the one whose head it tests."""
        return self.head if self.head is not None and role in TRAINING_ROLES else self

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of the content of all files, and of how they are read."""
        if self.layout.kind == "embedded":
            content = self._embedded_fingerprint()
        else:
            content = fingerprint_files(self.layout.root, self.layout.files(), self.memo_dir, rehash=self.rehash)
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
        reading |= self.layout.reading() | (self.spec.reading() if self.spec is not None else {})
        if self.decoding.upright:
            reading["orientation"] = "upright"
        return sha256_of({"content": content, "reading": reading | self._drawn()})

    def fingerprint_of(self, role: str) -> str:
        """Returns what tells the content of a split: the dataset's fingerprint, or of shared files theirs alone."""
        files = self.layout.shared_files(self.sources.get(role, ()))
        if not files:
            return self.fingerprint
        content = fingerprint_files(self.layout.root, files, self.memo_dir, rehash=self.rehash)
        reading = {"shared": True, "upright": self.decoding.upright}
        return sha256_of({"content": content, "reading": reading | self._drawn()})

    def _drawn(self) -> dict[str, Any]:
        """Returns what decides which items are drawn, for a fingerprint; nothing where all are taken."""
        return {"sample": {**self.sample, "seed": self.sample_seed}} if self.sample else {}

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
        return "embedded" if self.layout.kind == "embedded" else f"{self.layout.kind} in {printable(self.layout.root)}"

    def num_items(self, role: str) -> int:
        """Returns the number of items of a split: what the spec declares (and `split` checks), else what is found."""
        declared = self.spec.splits[role].size if self.spec is not None else None
        if declared is None:
            return len(self.split(role))
        return min(declared, self.sample.get(role, declared))

    @property
    def _split_specs(self) -> Mapping[str, SplitSpec]:
        return self.spec.splits if self.spec is not None else {}

    def validation_from(self, role: str) -> int | None:
        """Returns the first row of the validation part with which a split ends; None where it has no such part."""
        spec = self._split_specs.get(role)
        if spec is None or spec.validation is None:
            return None
        split = self.split(role)
        if isinstance(split, SubsetSplit):
            whole = split.whole
            assert isinstance(whole, JoinedSplit)
            first = int(np.searchsorted(split.rows, whole.starts[-2]))
            return first if first < len(split) else None
        assert isinstance(split, JoinedSplit)
        return split.starts[-2]

    @cached_property
    def left_out(self) -> LeftOut:
        """What lies in its place, looks like data, and is not taken."""
        return self.layout.left_out()

    def as_images(self) -> Dataset:
        """Returns the images of all splits as one split without labels, `all`."""
        sources = {"all": tuple(dict.fromkeys(name for names in self.sources.values() for name in names))}
        return replace(self, kind="unlabelled", sources=sources, sample={})

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
            return self.spec.class_names if self.spec is not None else None
        if self.spec is not None and self.spec.class_names is not None:
            return self.spec.class_names
        return self.split("train" if "train" in self.sources else next(iter(self.sources))).class_names

    @property
    def num_classes(self) -> int | None:
        """The number of classes: the spec's, else the number of class names, else the labels of the training split."""
        if self.kind not in LABELLED_KINDS:
            return self.spec.num_classes if self.spec is not None else None
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
            self._opened[role] = self._sampled(role, split)
        return self._opened[role]

    def _sampled(self, role: str, split: ImageSplit) -> ImageSplit:
        """Returns the items of a split that are drawn; all of them where no number was asked for."""
        count = self.sample.get(role)
        if count is None or count >= len(split):
            return split
        if self.spec is not None and self.spec.corruptions is not None:
            return sampled_in_blocks(split, count, self.sample_seed)
        try:
            labelled = split.labels is not None and split.labels.ndim == 1
            rows = (
                balanced_rows(split.labels, count, self.sample_seed)  # type: ignore[arg-type]  # class indices
                if labelled
                else plain_rows(len(split), count, self.sample_seed)
            )
        except ValueError as error:
            raise RequestError(f"{self.name}: {error}", field="sample", found=f"{role}={count}") from None
        return SubsetSplit(split, rows.tolist(), labelled=True)

    def _read(self, role: str) -> ImageSplit:
        parts = [self.layout.read(source) for source in self.sources[role]]
        if self.kind not in LABELLED_KINDS:
            for part in parts:  # labels that nothing asks for, and that parts may count in other ways
                part.labels = part.class_names = None
        split = parts[0] if len(parts) == 1 else JoinedSplit(parts)
        split.decoding = self.decoding
        return split

    def _number_as_train(self, role: str, split: ImageSplit) -> None:
        """Makes a label mean the same class as in the training split, where both name their classes."""
        whole = self.split("train")
        names, found = whole.class_names, split.class_names
        if split.labels is None or split.labels.ndim != 1 or found == names or len(split) == 0:
            return
        if names is None or found is None:
            if self.spec is not None or whole.labels is None:
                return  # what the labels mean, the spec says
            raise RequestError(
                f"{self.name} ({role}, {self.place}): only {'this' if names is None else 'the training'} split names "
                "its classes: the labels may mean other classes; fetch the files again, of one version"
            )
        number = {name: index for index, name in enumerate(names)}
        unknown = [name for name in found if name not in number]
        if unknown or len(number) != len(names) or len(set(found)) != len(found):
            why = f"{unknown[0]!r} is not among its {len(names)}" if unknown else "a name stands for two of them"
            raise RequestError(
                f"{self.name} ({role}, {self.place}): the classes are not those of the training split ({why}): the "
                "labels cannot be compared",
                remedy=f"check the copy, or choose other splits with {asked('splits')}",
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
        several = self.spec is not None and self.spec.any_of_several
        if self.kind == "multi-label" or labels.ndim != 1 or several:
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
            advice = f"choose a labelled split ({asked('splits', 'test=validation')})" if self.spec is None else own
            raise RequestError(
                f"{where}: found labels from {found[0]} to {found[-1]}, expected 0 to {count - 1}; "
                f"unlabelled images carry −1 in some copies: {advice}"
            )
        if expected is not None and len(found) != expected:
            raise RequestError(
                f"{where}: found {len(found)} classes, expected {expected}; see: massl-bench info {self.name}"
            )

    def _check_multi_label(self, where: str, labels_NC: Labels, expected: int | None) -> None:
        several = self.spec is not None and self.spec.any_of_several
        if not (self.kind == "multi-label" or several) or labels_NC.ndim != 2 or labels_NC.shape[1] != expected:
            classes = "[N]" if self.kind != "multi-label" else f"[N, {expected}]"
            raise RequestError(
                f"{where}: found labels of shape {list(labels_NC.shape)}, expected {classes} for a {self.kind} dataset"
            )
        strange = np.setdiff1d(labels_NC, [-1, 0, 1])
        if len(strange):
            raise RequestError(f"{where}: found the label {strange[0]}, expected 1 present, 0 difficult, −1 absent")
        found = int((labels_NC == 1).any(axis=0).sum())
        if found != expected and not several:  # a test set may show none of some
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
