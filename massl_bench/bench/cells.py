"""What one request makes of a cell: the splits that it reads, their limits and keys, and the identity of its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from massl_bench import protocols
from massl_bench.bench.duplicates import LeftAside
from massl_bench.bench.passes import made_along
from massl_bench.bench.planned import (
    CellPlan,
    FeatureCell,
    ImageCell,
    MissingCell,
    PlannedCell,
    ReadyCell,
    plan_of,
)
from massl_bench.bench.request import RunRequest
from massl_bench.bench.room import check_room, room_of
from massl_bench.core.devices import resolve_device
from massl_bench.core.errors import MissingDataError, RequestError
from massl_bench.core.settings import PrecisionBar
from massl_bench.core.values import SearchBackend
from massl_bench.core.wording import asked, option
from massl_bench.features import FeatureCache, HandedFeatures, Reporting, read_features_file
from massl_bench.learners import faiss_backend
from massl_bench.records.reading import read_record
from massl_bench.records.record import (
    DatasetIdentity,
    Identity,
    ResultRecord,
    TaskIdentity,
    old_record_path,
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
        return faiss_backend.resolve_backend(self.device)

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

    def identity(self, cell: ReadyCell, skipped: Mapping[str, Sequence[str]]) -> Identity:
        """Returns what a record of the cell must agree with; `skipped` are the corrupt items left out, by split."""
        spec, aside = cell.task.spec, _aside(cell)
        if aside is not None:
            skipped = {**skipped, aside.role: aside.names}
        task = TaskIdentity(
            name=spec.name,
            version=spec.version,
            spec_sha256=spec.spec_hash,
            protocol=spec.protocol,
            params=cell.task.params.model_dump(mode="json"),
            headline=protocols.headline(spec, cell.kind),
            seed=spec.seed,
        )
        dataset = DatasetIdentity(
            name=cell.dataset_reference,
            fingerprint=cell.fingerprint,
            limit=dict(cell.limits),
            skipped={role: list(items) for role, items in skipped.items() if items},
        )
        return Identity(
            model=cell.model_identity(),
            task=task,
            dataset=dataset,
            preprocessing=cell.preprocessing,
            precision=cell.precision,
            feature_keys=cell.feature_keys(),
        )

    def departures(self, cell: ReadyCell, identity: Identity) -> list[str]:
        """Returns how the run departs from its task."""
        departures = list(cell.task.departures)
        departures += [option("limit", f"{role}={count}") for role, count in sorted(identity.dataset.limit.items())]
        departures += [option("sample", f"{role}={count}") for role, count in sorted(cell.sample.items())]
        if cell.sample and self.request.data.sample_seed:
            departures.append(option("sample", f"seed={self.request.data.sample_seed}"))
        if identity.in_lower_precision and precision_bar(cell) is None:
            departures.append(option("precision", identity.precision))
        aside = _aside(cell)
        departures += [aside.departure] if aside is not None else []
        departures += [
            f"{len(items)} corrupt {role} images skipped"
            for role, items in identity.dataset.skipped.items()
            if aside is None or role != aside.role
        ]
        return departures

    def check_sizes(self, cell: ImageCell | FeatureCell) -> None:
        """Raises `RequestError` where splits are too small for the task, or this machine is for the splits."""
        protocols.check_sizes(cell.task.spec, cell.task.params, cell.sizes)
        check_room(cell, self.device, lambda: self.finished(cell)[1] is not None)

    def finished(self, cell: ReadyCell) -> tuple[Path, ResultRecord | None]:
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
                    remedy = f"{asked('force')} measures it again and replaces it"
                    raise RequestError(str(error), remedy=remedy) from None
                # In the old place, of several names: what a model is called is no part of the identity.
                same_name = place == path or record.identity.model.name == identity.model.name
                if record.identity.digest == identity.digest and same_name:
                    return place, record
        return path, None

    def describe(self, cell: PlannedCell, before: Sequence[ImageCell] = ()) -> CellPlan:
        """Returns what running the cell will do, for `--dry-run`.

        Args:
            cell: as planned.
            before: the cells whose features will be extracted before its own.
        """
        if isinstance(cell, MissingCell):
            can_fetch = isinstance(cell.problem, MissingDataError) and not self.request.data.offline
            return plan_of(cell, "download" if can_fetch else "missing", None, str(cell.problem))
        path, record = self.finished(cell)
        if record is not None:
            return plan_of(cell, "finished", path, f"the record is there; {asked('force')} runs it again")
        if isinstance(cell, FeatureCell):
            return plan_of(cell, "cached", path, f"features from the file{self._room(cell)}")
        to_do = cell.to_extract(self.cache)
        if not to_do and not cell.view_roles:
            return plan_of(cell, "cached", path, f"features from the cache, no model is loaded{self._room(cell)}")
        images = [f"{role} {cell.count(role):,}{self._shared(cell, role, before)}" for role in to_do]
        images += [
            f"{role} in augmented views, {cell.count(role):,} an epoch at most"
            if role == "train"
            else f"{role} {cell.count(role):,}, not kept"
            for role in cell.view_roles
        ]
        detail = f"images through the model on {self.device}: {', '.join(images)}{self._room(cell)}"
        return plan_of(cell, "extract", path, detail)

    def _shared(self, cell: ImageCell, role: str, before: Sequence[ImageCell]) -> str:
        """Returns whose features of a split a cell reads, or with whose they are decoded: of cells before it."""
        for one in before:
            if role in one.bank_roles and one.key(role) == cell.key(role):
                return f" (those of {one.task.spec.name})"
        makers = [one.task.spec.name for one in before if made_along(one, role, [cell], self.cache)]
        return f" (decoded once, with {makers[0]})" if makers else ""

    def _room(self, cell: ImageCell | FeatureCell) -> str:
        said = str(room_of(cell, self.device) or "")
        return f"; {said}" if said else ""


def precision_bar(cell: ReadyCell) -> PrecisionBar | None:
    """Returns what features in a lower precision are held against; None in fp32, and where such a run departs."""
    images = isinstance(cell, ImageCell) and cell.precision != "fp32" and not cell.view_roles
    return cell.task.spec.lower_precision if images else None


def _aside(cell: ReadyCell) -> LeftAside | None:
    return cell.aside if isinstance(cell, ImageCell) else None
