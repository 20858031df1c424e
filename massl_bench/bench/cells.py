"""What one request makes of a cell: the splits that it reads, their limits and keys, and the identity of its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from massl_bench import protocols
from massl_bench.bench.request import CellPlan, PlannedCell, PlannedTask, RunRequest
from massl_bench.core.devices import resolve_device
from massl_bench.core.errors import MissingDataError, RequestError
from massl_bench.core.files import sha256_of
from massl_bench.core.settings import Preprocessing
from massl_bench.core.values import GroundTruth, SearchBackend
from massl_bench.datasets import Dataset
from massl_bench.features import BankKey, FeatureCache, HandedFeatures, Reporting, bank_key, read_features_file
from massl_bench.learners import faiss_backend
from massl_bench.records.record import (
    DatasetIdentity,
    Identity,
    ModelIdentity,
    ResultRecord,
    TaskIdentity,
    old_record_path,
    read_record,
    record_path,
)


class Cells:
    """Answers for the cells of one request; opens nothing but features that were handed in."""

    def __init__(self, request: RunRequest, reporting: Reporting) -> None:
        self.request = request
        self.reporting = reporting
        self.cache = FeatureCache(request.features_dir or request.data.cache_dir)

    @cached_property
    def backend(self) -> SearchBackend:
        """Where neighbours are searched."""
        backend, reason = faiss_backend.resolve_backend(self.device)
        if reason is not None:
            self.reporting.say(reason)
        return backend

    @cached_property
    def device(self) -> str:
        """Where encoders run."""
        return resolve_device(self.request.device)

    @cached_property
    def handed(self) -> HandedFeatures:
        """The features that were handed in."""
        assert self.request.features_file is not None
        handed = read_features_file(self.request.features_file, self.request.ground_truth)
        for note in handed.notes:
            self.reporting.say(note)
        return handed

    def roles(self, cell: PlannedCell) -> tuple[str, ...]:
        """Returns the splits that the cell reads."""
        if cell.model is None:
            return self.handed_roles(cell.task)
        assert cell.dataset is not None
        return protocols.roles(cell.task.spec.protocol, cell.dataset.kind, cell.dataset.sources)

    def bank_roles(self, cell: PlannedCell) -> tuple[str, ...]:
        """Returns the splits that the cell reads as banks: all but those that it sees in augmented views."""
        seen = protocols.view_roles(cell.task.spec.protocol)
        return tuple(role for role in self.roles(cell) if role not in seen)

    def handed_roles(self, task: PlannedTask) -> tuple[str, ...]:
        """Returns the splits that a task reads of the features that were handed in."""
        return protocols.roles(task.spec.protocol, self.handed.kind, self.handed.banks)

    def limit(self, dataset: Dataset, role: str) -> int | None:
        """Returns the limit of a split, or None where it takes nothing away."""
        limit = self.request.limit.get(role, self.request.limit.get(""))
        return limit if limit is not None and limit < dataset.num_items(role) else None

    def sample(self, cell: PlannedCell) -> Mapping[str, int]:
        """Returns the number of items that are drawn of the splits that the cell reads, by role; mostly nothing."""
        wanted = self.request.data.sample if cell.model is not None and cell.dataset is not None else {}
        return {role: count for role, count in wanted.items() if role in self.roles(cell)}

    def count(self, dataset: Dataset, role: str) -> int:
        """Returns the number of items of a split, under its limit."""
        limit = self.limit(dataset, role)
        return dataset.num_items(role) if limit is None else limit

    def preprocessing(self, cell: PlannedCell) -> Preprocessing | None:
        """Returns the preprocessing of the cell's images: the model's, with the task's changes; None without images."""
        if cell.model is None:
            return None
        return cell.model.card.prepared(cell.task.spec.preprocessing, cell.task.spec.own_size_below)

    def key(self, cell: PlannedCell, role: str) -> BankKey:
        """Returns the content key of one of the cell's banks; of a split in augmented views, the one it would have."""
        assert cell.dataset is not None
        assert cell.model is not None
        preprocessing = self.preprocessing(cell)
        assert preprocessing is not None
        limit = self.limit(cell.dataset, role)
        card = cell.model.card.pooled(cell.task.spec.pooling)
        return bank_key(card, preprocessing, cell.dataset, role, limit, self.request.extraction)

    def ground_truth(self, cell: PlannedCell) -> GroundTruth | None:
        """Returns what the cell's queries should find, or None for a protocol that asks for nothing of the kind."""
        if cell.model is None:
            return self.handed.ground_truth
        if protocols.named_by_truth(cell.task.spec.protocol) is None:
            return None
        assert cell.dataset is not None
        return cell.dataset.ground_truth(self.limit(cell.dataset, "queries"))

    def identity(self, cell: PlannedCell, skipped: Mapping[str, Sequence[str]]) -> Identity:
        """Returns what a record of the cell must agree with; `skipped` are the corrupt items left out, by split."""
        spec = cell.task.spec
        kind = self.handed.kind if cell.dataset is None else cell.dataset.kind
        task = TaskIdentity(
            name=spec.name,
            version=spec.version,
            spec_sha256=spec.spec_hash,
            protocol=spec.protocol,
            params=cell.task.params.model_dump(mode="json"),
            headline=protocols.headline(spec, kind),
            seed=spec.seed,
        )
        if cell.model is None:
            sha256 = self.handed.sha256
            model = ModelIdentity(
                name=self.model_name(cell),
                architecture="unknown",
                pooling="unknown",
                embed_dim=next(iter(self.handed.banks.values())).features.shape[1],
                weights_sha256=sha256,
                weights_hash_of="features",
            )
            fingerprint, limit = sha256, {}
            keys = {role: sha256_of([sha256, role]) for role in self.handed_roles(cell.task)}
        else:
            assert cell.dataset is not None
            card = cell.model.card.pooled(spec.pooling)
            model = ModelIdentity(**card.model_dump(include=set(ModelIdentity.model_fields)))
            fingerprint = cell.dataset.fingerprint
            roles = self.roles(cell)
            limits = {role: self.limit(cell.dataset, role) for role in roles}
            limit = {role: count for role, count in limits.items() if count is not None}
            keys = {role: self.key(cell, role).digest for role in roles}
        return Identity(
            model=model,
            task=task,
            dataset=DatasetIdentity(
                name=cell.dataset_reference,
                fingerprint=fingerprint,
                limit=limit,
                skipped={role: list(items) for role, items in skipped.items() if items},
            ),
            preprocessing=self.preprocessing(cell),
            precision=self.request.extraction.precision if cell.model is not None else "unknown",
            feature_keys=keys,
        )

    def departures(self, cell: PlannedCell, identity: Identity) -> list[str]:
        """Returns how the run departs from its task."""
        departures = list(cell.task.departures)
        departures += [f"--limit {role}={count}" for role, count in sorted(identity.dataset.limit.items())]
        departures += [f"--sample {role}={count}" for role, count in sorted(self.sample(cell).items())]
        if identity.precision not in ("fp32", "unknown"):
            departures.append(f"--precision {identity.precision}")
        departures += [
            f"{len(items)} corrupt {role} images skipped" for role, items in identity.dataset.skipped.items()
        ]
        return departures

    def finished(self, cell: PlannedCell) -> tuple[Path, ResultRecord | None]:
        """Returns where the cell's record belongs, and the record where one of the same identity is there."""
        identity = self.identity(cell, {})
        departures = self.departures(cell, identity)
        path = record_path(self.request.results_dir, identity, departures)
        old = old_record_path(self.request.results_dir, identity, departures)
        for place in [] if self.request.force else dict.fromkeys((path, old)):
            if place.is_file():
                try:
                    record = read_record(place)
                except RequestError as error:
                    if place != path:
                        continue  # maybe of another name: it stays, and nothing is lost but time
                    raise RequestError(f"{error}; --force measures it again and replaces it") from None
                if record.identity_sha256 == identity.digest:
                    return place, record
        return path, None

    def describe(self, cell: PlannedCell) -> CellPlan:
        """Returns what running the cell will do, for `--dry-run`."""
        name = self.model_name(cell)

        def plan(status: Any, record: Path | None, detail: str) -> CellPlan:
            return CellPlan(
                task=cell.task.spec.name,
                dataset=cell.dataset_reference,
                model=name,
                status=status,
                record=record,
                detail=detail,
            )

        if cell.problem is not None:
            can_fetch = isinstance(cell.problem, MissingDataError) and not self.request.data.offline
            return plan("download" if can_fetch else "missing", None, str(cell.problem))
        path, record = self.finished(cell)
        if record is not None:
            return plan("finished", path, "the record is there; --force runs it again")
        if cell.model is None:
            return plan("cached", path, "features from the file")
        to_do = [role for role in self.bank_roles(cell) if self.key(cell, role) not in self.cache]
        seen = protocols.view_roles(cell.task.spec.protocol)
        if not to_do and not seen:
            return plan("cached", path, "features from the cache, no model is loaded")
        dataset = cell.dataset
        assert dataset is not None
        images = [f"{role} {self.count(dataset, role):,}" for role in to_do]
        images += [f"{role} in augmented views, {self.count(dataset, role):,} an epoch at most" for role in seen]
        return plan("extract", path, f"images through the model on {self.device}: {', '.join(images)}")

    def model_name(self, cell: PlannedCell) -> str:
        """Returns the model's name in the results."""
        return cell.model.card.name if cell.model is not None else self.request.name or "features"
