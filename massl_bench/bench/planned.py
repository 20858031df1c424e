"""The cells of one request: images that go through a model, features that were handed in, and what cannot run.

The first two answer the same questions (`ReadyCell`); they open nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from massl_bench import protocols
from massl_bench.bench.duplicates import LeftAside
from massl_bench.bench.request import PlannedTask, RunRequest
from massl_bench.core.errors import MasslBenchError
from massl_bench.core.files import sha256_of
from massl_bench.core.kinds import DatasetKind
from massl_bench.core.settings import Precision, Preprocessing
from massl_bench.core.values import FeatureBank, GroundTruth
from massl_bench.datasets import Dataset
from massl_bench.features import BankKey, FeatureCache, HandedFeatures, bank_key
from massl_bench.models import Model
from massl_bench.records.making import Origin
from massl_bench.records.record import LeftOutItems, ModelIdentity, TrainedHead


class ReadyCell(Protocol):
    """A cell that can run."""

    @property
    def task(self) -> PlannedTask:
        """What is measured."""

    @property
    def dataset_reference(self) -> str:
        """What the data is called in the results."""

    @property
    def model_name(self) -> str:
        """What the model is called in the results."""

    @property
    def setup_seconds(self) -> float:
        """What opening the model took."""

    @property
    def data_seconds(self) -> float:
        """What looking at the data took."""

    @property
    def kind(self) -> DatasetKind:
        """Of the data."""

    @property
    def roles(self) -> tuple[str, ...]:
        """The splits that the cell reads."""

    @property
    def sizes(self) -> dict[str, int]:
        """How many items the splits have that are there, under their limits, by role."""

    @property
    def limits(self) -> Mapping[str, int]:
        """How many items at most of the splits that are not read whole, by role."""

    @property
    def sample(self) -> Mapping[str, int]:
        """How many items are drawn of the splits that the cell reads, by role; mostly nothing."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """Of the cell's images: the model's, with the task's changes; None without images."""

    @property
    def precision(self) -> Precision | Literal["unknown"]:
        """In which features are computed."""

    @property
    def ignored_class(self) -> int | None:
        """Of a segmentation dataset, where it has one."""

    @property
    def fingerprint(self) -> str:
        """Of the data's content."""

    def ground_truth(self) -> GroundTruth | None:
        """Returns what the cell's queries should find, or None for a protocol that asks for nothing of the kind."""

    def feature_keys(self) -> dict[str, str]:
        """Returns the content key of each split that is read."""

    def model_identity(self) -> ModelIdentity:
        """Returns what a record says of the model."""

    def origin(self) -> Origin:
        """Returns where model and data come from."""


@dataclass(frozen=True, kw_only=True)
class ImageCell:
    """Images of a dataset, through a model."""

    task: PlannedTask
    dataset_reference: str
    model: Model
    dataset: Dataset
    request: RunRequest
    aside: LeftAside | None = None
    setup_seconds: float = 0.0
    data_seconds: float = 0.0

    @property
    def model_name(self) -> str:
        """As in `ReadyCell`, and so the others."""
        return self.model.card.name

    @property
    def kind(self) -> DatasetKind:
        """See `ReadyCell`."""
        return self.dataset.kind

    @property
    def roles(self) -> tuple[str, ...]:
        """See `ReadyCell`."""
        return protocols.roles(self.task.spec.protocol, self.dataset.kind, self.dataset.roles)

    @property
    def trained_on(self) -> Dataset | None:
        """The other dataset that the cell's head is trained on, where the cell reads a split of it."""
        head = self.dataset.head
        return head if head is not None and any(self.dataset.holding(role) is head for role in self.roles) else None

    @property
    def view_roles(self) -> tuple[str, ...]:
        """The splits whose features are not kept: seen in augmented views, or as they are through the network again."""
        there = set(self.roles)
        return tuple(role for role in protocols.view_roles(self.task.spec.protocol) if role in there)

    @property
    def bank_roles(self) -> tuple[str, ...]:
        """The splits that are read as banks."""
        return tuple(role for role in self.roles if role not in self.view_roles)

    def limit(self, role: str) -> int | None:
        """Returns the limit of a split, or None where it takes nothing away."""
        limit = self.request.limit.get(role, self.request.limit.get(""))
        return limit if limit is not None and limit < self.dataset.holding(role).num_items(role) else None

    def count(self, role: str) -> int:
        """Returns the number of items of a split, under its limit."""
        limit = self.limit(role)
        return self.dataset.holding(role).num_items(role) if limit is None else limit

    @property
    def sizes(self) -> dict[str, int]:
        """See `ReadyCell`."""
        return {role: self.count(role) for role in self.roles if role in self.dataset.roles}

    @property
    def limits(self) -> Mapping[str, int]:
        """See `ReadyCell`."""
        return {role: limit for role in self.roles if (limit := self.limit(role)) is not None}

    @property
    def sample(self) -> Mapping[str, int]:
        """See `ReadyCell`."""
        return {role: count for role, count in self.request.data.sample.items() if role in self.roles}

    @property
    def preprocessing(self) -> Preprocessing:
        """See `ReadyCell`."""
        return self.model.card.prepared(self.task.spec.preprocessing, self.task.spec.own_size_below)

    @property
    def precision(self) -> Precision:
        """See `ReadyCell`."""
        return self.request.extraction.precision

    @property
    def ignored_class(self) -> int | None:
        """See `ReadyCell`."""
        return self.dataset.spec.ignored_class if self.dataset.spec is not None else None

    @property
    def fingerprint(self) -> str:
        """See `ReadyCell`."""
        return self.dataset.fingerprint

    def key(self, role: str) -> BankKey:
        """Returns the content key of one of the cell's banks; of a split in augmented views, the one it would have."""
        card, dataset = self.model.card.pooled(self.task.spec.pooling), self.dataset.holding(role)
        preprocessing = self.preprocessing
        if dataset.spec is not None and dataset.spec.cropped:
            preprocessing = preprocessing.of_crops()
        return bank_key(card, preprocessing, dataset, role, self.limit(role), self.request.extraction)

    def with_parts(self, bank: FeatureBank) -> FeatureBank:
        """Returns a bank of the cell's that says of which features its own are made."""
        return replace(bank, parts=self.model.card.parts(self.task.spec.pooling))

    def to_extract(self, cache: FeatureCache) -> list[str]:
        """Returns the splits whose features are not kept."""
        return [role for role in self.bank_roles if self.key(role) not in cache]

    def ground_truth(self) -> GroundTruth | None:
        """See `ReadyCell`."""
        if protocols.named_by_truth(self.task.spec.protocol) is None:
            return None
        return self.dataset.ground_truth(self.limit("queries"))

    def feature_keys(self) -> dict[str, str]:
        """See `ReadyCell`."""
        return {role: self.key(role).digest for role in self.roles}

    def model_identity(self) -> ModelIdentity:
        """See `ReadyCell`."""
        card = self.model.card.pooled(self.task.spec.pooling)
        return ModelIdentity(**card.model_dump(include=set(ModelIdentity.model_fields)))

    def origin(self) -> Origin:
        """See `ReadyCell`."""
        card, left_out, head = self.model.card, self.dataset.left_out, self.trained_on
        override = " and the task's override" if self.task.spec.preprocessing is not None else ""
        return Origin(
            model_reference=card.reference,
            model_licence=card.licence,
            weights_origin=card.weights_origin,
            preprocessing_origin=card.preprocessing_origin + override,
            dataset_layout=self.dataset.layout.kind,
            dataset_revision=self.dataset.revision,
            head=self._trained_head(head) if head is not None else None,
            left_out=LeftOutItems(count=left_out.count, first=left_out.first) if left_out else None,
            generated_copies=self.dataset.generated,
        )

    def _trained_head(self, head: Dataset) -> TrainedHead:
        sizes = {role: count for role, count in self.sizes.items() if self.dataset.holding(role) is head}
        return TrainedHead(dataset=head.name, fingerprint=head.fingerprint, num_items=sizes)


@dataclass(frozen=True, kw_only=True)
class FeatureCell:
    """Features that were handed in."""

    task: PlannedTask
    handed: HandedFeatures
    request: RunRequest
    setup_seconds: float = 0.0
    data_seconds: float = 0.0

    @property
    def dataset_reference(self) -> str:
        """The file's own name stands for the data's."""
        return self.handed.name

    @property
    def model_name(self) -> str:
        """See `ReadyCell`."""
        return self.request.name or "features"

    @property
    def kind(self) -> DatasetKind:
        """See `ReadyCell`."""
        return self.handed.kind

    @property
    def roles(self) -> tuple[str, ...]:
        """See `ReadyCell`."""
        return protocols.roles(self.task.spec.protocol, self.handed.kind, self.handed.banks)

    @property
    def sizes(self) -> dict[str, int]:
        """See `ReadyCell`."""
        return {role: len(self.handed.banks[role]) for role in self.roles}

    @property
    def limits(self) -> Mapping[str, int]:
        """Features are taken whole."""
        return {}

    @property
    def sample(self) -> Mapping[str, int]:
        """Features are taken whole."""
        return {}

    @property
    def preprocessing(self) -> None:
        """Nobody knows it."""

    @property
    def precision(self) -> Literal["unknown"]:
        """Nobody knows it."""
        return "unknown"

    @property
    def ignored_class(self) -> None:
        """Features have none."""

    @property
    def fingerprint(self) -> str:
        """See `ReadyCell`."""
        return self.handed.sha256

    def ground_truth(self) -> GroundTruth | None:
        """See `ReadyCell`."""
        return self.handed.ground_truth

    def feature_keys(self) -> dict[str, str]:
        """See `ReadyCell`."""
        return {role: sha256_of([self.handed.sha256, role]) for role in self.roles}

    def model_identity(self) -> ModelIdentity:
        """See `ReadyCell`."""
        return ModelIdentity(
            name=self.model_name,
            architecture="unknown",
            pooling="unknown",
            embed_dim=next(iter(self.handed.banks.values())).features.shape[1],
            weights_sha256=self.handed.sha256,
            weights_hash_of="features",
        )

    def origin(self) -> Origin:
        """See `ReadyCell`."""
        return Origin(
            model_reference=str(self.request.features_file),
            model_licence="unknown",
            weights_origin="features that were handed in",
            preprocessing_origin="unknown",
            dataset_layout="npz",
            notes=tuple(self.handed.notes),
        )


@dataclass(frozen=True, kw_only=True)
class MissingCell:
    """Images that cannot go through their model, or not yet."""

    task: PlannedTask
    dataset_reference: str
    model: Model
    request: RunRequest
    problem: MasslBenchError
    """Why; a `MissingDataError` may be cured by a download."""
    trained_on: str | None = None
    """The other dataset that its head is trained on, as far as the registry says it."""
    setup_seconds: float = 0.0
    data_seconds: float = 0.0

    @property
    def model_name(self) -> str:
        """What the model is called in the results."""
        return self.model.card.name

    def with_dataset(self, dataset: Dataset, data_seconds: float) -> ImageCell:
        """Returns the cell with its data, which took so long to fetch."""
        return ImageCell(
            task=self.task,
            dataset_reference=self.dataset_reference,
            model=self.model,
            dataset=dataset,
            request=self.request,
            setup_seconds=self.setup_seconds,
            data_seconds=data_seconds,
        )


PlannedCell = ImageCell | FeatureCell | MissingCell


PlanStatus = Literal["finished", "cached", "extract", "download", "missing"]
"""`finished`: the record is there; `cached`: all features are; `extract`: images go through the model; `download`: the
data is fetched first; `missing`: the cell will fail."""


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """What running a cell will do."""

    task: str
    dataset: str
    model: str
    status: PlanStatus
    record: Path | None
    detail: str


def plan_of(cell: PlannedCell, status: PlanStatus, record: Path | None, detail: str) -> CellPlan:
    """Returns the plan of a cell."""
    return CellPlan(
        task=cell.task.spec.name,
        dataset=cell.dataset_reference,
        model=cell.model_name,
        status=status,
        record=record,
        detail=detail,
    )
