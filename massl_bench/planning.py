"""From a request to planned cells: everything that can be known before work starts, and nothing written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from massl_bench import protocols, results, search
from massl_bench.datasets import CopiesDataset, DataOptions, Dataset, check_boxes, open_dataset, with_copies
from massl_bench.devices import resolve_device
from massl_bench.errors import MasslBenchError, MissingDataError, RequestError
from massl_bench.features import (
    BankKey,
    ExtractionOptions,
    FeatureCache,
    HandedFeatures,
    Reporting,
    bank_key,
    read_features_file,
)
from massl_bench.models import Model, ModelOptions, open_model
from massl_bench.results import ResultRecord
from massl_bench.specs import Registry, TaskSpec
from massl_bench.storage import sha256_of
from massl_bench.types import CopyTruth, DatasetKind, GroundTruth, Preprocessing, SearchBackend, StrictModel

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What the user asked for."""

    cells: Sequence[tuple[str, str]]
    """(task, dataset) in order."""
    models: Sequence[str]
    suite: str | None = None
    """Where the cells come from, if from a suite: data that is missing then fails its cell, and the others go on."""
    features_file: Path | None = None
    """In place of models and datasets."""
    ground_truth: Path | None = None
    """What the queries of handed-in retrieval features should find."""
    name: str | None = None
    """The model's name in the results, where not its own."""
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Parameters by task (`--set`)."""
    seed: int | None = None
    limit: Mapping[str, int] = field(default_factory=dict)
    """First items only, by split; the key `""` stands for every split."""
    device: str = "auto"
    data: DataOptions
    extraction: ExtractionOptions = field(default_factory=ExtractionOptions)
    results_dir: Path
    features_dir: Path | None = None
    """Where feature banks are kept; None for the cache directory."""
    arch: str | None = None
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class PlannedTask:
    """A task with the user's changes, checked."""

    spec: TaskSpec
    params: StrictModel
    departures: tuple[str, ...]
    seed_given: bool = False
    """Whether `--seed` replaced the task's own: then it replaces that of generated copies too."""


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """A cell that can run, or the reason why it cannot."""

    task: PlannedTask
    dataset_reference: str
    model: Model | None
    """None for features that were handed in."""
    dataset: Dataset | None
    problem: MasslBenchError | None = None
    """Why the dataset is not there; a `MissingDataError` may be cured by a download."""
    setup_seconds: float = 0.0
    data_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """What running a cell will do."""

    task: str
    dataset: str
    model: str
    status: Literal["finished", "cached", "extract", "download", "missing"]
    """`finished`: the record is there; `cached`: all features are; `extract`: images go through the model;
    `download`: the data is fetched first; `missing`: the cell will fail."""
    record: Path | None
    detail: str


class Planner:
    """Resolves the names of one request, checks what they stand for, and gives each cell its identity."""

    def __init__(self, request: RunRequest, registry: Registry, reporting: Reporting) -> None:
        self.request = request
        self._registry = registry
        self._reporting = reporting
        self.cache = FeatureCache(request.features_dir or request.data.cache_dir)
        self._datasets: dict[str, Dataset | MasslBenchError] = {}
        self._with_copies: dict[tuple[str, str, int | None], CopiesDataset] = {}

    @cached_property
    def backend(self) -> SearchBackend:
        """Where neighbours are searched."""
        backend, reason = search.resolve_backend(self.device)
        if reason is not None:
            self._reporting.say(reason)
        return backend

    @cached_property
    def device(self) -> str:
        """Where encoders run."""
        return resolve_device(self.request.device)

    @cached_property
    def handed(self) -> HandedFeatures:
        """The features that were handed in."""
        assert self.request.features_file is not None
        return read_features_file(self.request.features_file, self.request.ground_truth)

    def plan(self) -> list[PlannedCell]:
        """Returns the cells, checked as far as they can be before work starts; writes nothing but memos of hashes.

        Raises:
            RequestError: The request cannot be carried out.
        """
        search.check_installation()
        resolve_device(self.request.device)
        if self.request.suite is not None:
            protocols.check_suite(self._registry.suite(self.request.suite), self._registry)
        tasks = {name: self._plan_task(name) for name, _ in self.request.cells}
        unused = set(self.request.overrides) - set(tasks)
        if unused:
            raise RequestError(
                f"--set {min(unused)}.…: the task is not a part of this run; its tasks: {', '.join(tasks)}"
            )
        roles = {role for task in tasks.values() for role in protocols.possible_roles(task.spec.protocol)}
        unknown = sorted(set(self.request.limit) - roles - {""})
        if unknown:
            raise RequestError(
                f"--limit {unknown[0]}=…: no task of this run has such a split; {', '.join(sorted(roles))}"
            )
        if self.request.features_file is not None:
            return [self._plan_handed(tasks[task]) for task, _ in self.request.cells]
        # Datasets first: that is quick, and a typo there should not wait for a model to load.
        for task, dataset in self.request.cells:
            self.open_dataset(dataset)
            self.check_kind(tasks[task], dataset)
        cells = []
        for reference in self.request.models:
            seconds, model = timed(partial(self._open_model, reference))
            for task, dataset in self.request.cells:
                cell = self._plan_cell(tasks[task], dataset, model)
                cells.append(replace(cell, setup_seconds=seconds))
                seconds = 0.0
        return cells

    def _plan_task(self, name: str) -> PlannedTask:
        spec = self._registry.task(name)
        origin = str(self._registry.tasks[name])
        protocols.parameters(spec, origin)
        departures = []
        changes = dict(self.request.overrides.get(name, {}))
        if changes:
            departures = [f"--set {name}.{key}={value}" for key, value in sorted(changes.items())]
            origin = "--set " + ", ".join(f"{name}.{key}" for key in sorted(changes))
            headline = changes.pop("headline", spec.headline)
            unknown = sorted(set(changes) - set(spec.params))
            if unknown:
                raise RequestError(
                    f"--set {name}.{unknown[0]}: {name} has the parameters {', '.join(spec.params)} and headline"
                )
            for key, value in changes.items():
                if isinstance(spec.params[key], list) and not isinstance(value, list):
                    changes[key] = [value]  # knn.k=20 is a list of one
            spec = spec.model_copy(update={"params": {**spec.params, **changes}, "headline": headline})
        seed_given = self.request.seed is not None and self.request.seed != spec.seed
        if seed_given:
            departures.append(f"--seed {self.request.seed}")
            spec = spec.model_copy(update={"seed": self.request.seed})
        params = protocols.parameters(spec, origin)
        return PlannedTask(spec=spec, params=params, departures=tuple(departures), seed_given=seed_given)

    def _open_model(self, reference: str) -> Model:
        options = ModelOptions(
            cache_dir=self.request.data.cache_dir, arch=self.request.arch, download=not self.request.data.offline
        )
        model = open_model(reference, self._registry, options)
        if self.request.name is not None:
            model = replace(model, card=model.card.model_copy(update={"name": self.request.name}))
        return model

    def open_dataset(self, reference: str, *, fetch: bool = False) -> Dataset | MasslBenchError:
        """Returns the dataset, or the reason why it is not there; each is looked for once."""
        known = self._datasets.get(reference)
        if known is None or (fetch and not isinstance(known, Dataset)):
            try:
                known = open_dataset(reference, self._registry, self.request.data, fetch=fetch)
            except MissingDataError as error:
                known = error
                if self.request.data.offline and self.request.suite is None:
                    raise
            except RequestError as error:  # a damaged or incomplete copy
                if self.request.suite is None or reference not in self._registry.datasets:
                    raise
                known = error
            self._datasets[reference] = known
        return known

    def as_task_reads(self, task: PlannedTask, dataset: Dataset) -> Dataset:
        """Returns the dataset, with generated copies where the task needs copies and nobody made any.

        Raises:
            RequestError: It has too few images for that.
        """
        how = task.spec.copies if dataset.kind == "unlabelled" else None
        if how is None and not isinstance(dataset, CopiesDataset):
            return dataset
        seed = task.spec.seed if task.seed_given else None
        key = dataset.name, how or "", seed
        if key not in self._with_copies:  # one object for all cells, which hashes the files once
            copied = dataset if isinstance(dataset, CopiesDataset) else with_copies(dataset, how or "", self._registry)
            self._with_copies[key] = copied if seed is None else copied.seeded(seed)
        return self._with_copies[key]

    def check_kind(self, task: PlannedTask, reference: str) -> None:
        """Raises `RequestError` where the task does not apply to the dataset."""
        dataset = self._datasets[reference]
        if isinstance(dataset, Dataset):
            kind = dataset.kind
        elif reference in self._registry.datasets:
            kind = self._registry.dataset(reference).kind
        else:
            return  # known when it has been downloaded
        if kind not in task.spec.kinds:
            raise RequestError(
                f"task {task.spec.name} needs a {' or '.join(task.spec.kinds)} dataset, and {reference} is {kind}; "
                f"tasks that apply: {', '.join(self._fitting(kind)) or 'none yet'}"
            )

    def _plan_cell(self, task: PlannedTask, reference: str, model: Model) -> PlannedCell:
        found = self.open_dataset(reference)
        if isinstance(found, MasslBenchError):
            return PlannedCell(task=task, dataset_reference=reference, model=model, dataset=None, problem=found)
        cell = PlannedCell(task=task, dataset_reference=reference, model=model, dataset=self.as_task_reads(task, found))
        if task.spec.pooling is not None and model.card.pooled(task.spec.pooling) == model.card:
            self._reporting.say(
                f"{model.card.name} has no class and patch tokens: {task.spec.name} takes its own feature "
                f"({model.card.pooling})"
            )
        try:
            seconds, _ = timed(lambda: self.check_cell(cell))
        except RequestError as error:
            if self.request.suite is None:
                raise
            return replace(cell, problem=error)
        return replace(cell, data_seconds=seconds)

    def check_cell(self, cell: PlannedCell) -> None:
        """Checks sizes against parameters, and the splits that will have to be read against their spec."""
        assert cell.dataset is not None
        protocol = protocols.load(cell.task.spec.protocol)
        roles = self.roles(cell)
        for role in roles:
            if role not in cell.dataset.sources:
                raise RequestError(
                    f"{cell.dataset.name}: task {cell.task.spec.name} needs the splits {', '.join(roles)}; "
                    f"it has {', '.join(cell.dataset.sources)}"
                )
            key = self.key(cell, role)
            if role not in self.bank_roles(cell) or key not in self.cache:
                check_boxes(cell.dataset.split(role), key.preprocessing)
        self._check_truth(cell.task.spec, cell.dataset)
        protocol.check_sizes(cell.task.params, {role: self._count(cell.dataset, role) for role in roles})

    def _check_truth(self, task: TaskSpec, dataset: Dataset) -> None:
        """Raises `RequestError` where a ground truth is missing, or where its rows would mean other images."""
        named = protocols.named_by_truth(task.protocol)
        if named is None:
            return
        truth = dataset.ground_truth()
        if truth is None:
            raise RequestError(
                f"{dataset.name} ({dataset.place}): task {task.name} must know what each query should find, and this "
                f"copy does not say it; see: massl-bench info {dataset.name}"
            )
        if isinstance(truth, CopyTruth) and truth.missing_blocks:
            self._reporting.say(
                f"{dataset.name} ({dataset.place}): not there, and left out: {', '.join(truth.missing_blocks)}"
            )
        if self.limit(dataset, named) is not None:
            raise RequestError(
                f"--limit: the ground truth of {dataset.name} names the rows of its {named}, which must therefore stay "
                "whole; fewer queries are possible: --limit queries=N"
            )

    def ground_truth(self, cell: PlannedCell) -> GroundTruth | None:
        """Returns what the cell's queries should find, or None for a protocol that asks for nothing of the kind."""
        if cell.model is None:
            return self.handed.ground_truth
        if protocols.named_by_truth(cell.task.spec.protocol) is None:
            return None
        assert cell.dataset is not None
        return cell.dataset.ground_truth(self.limit(cell.dataset, "queries"))

    def _plan_handed(self, task: PlannedTask) -> PlannedCell:
        kind = self.handed.kind
        fitting = [name for name in self._fitting(kind) if not protocols.view_roles(self._registry.task(name).protocol)]
        if kind not in task.spec.kinds:
            raise RequestError(
                f"task {task.spec.name} needs {' or '.join(task.spec.kinds)} features; the file's are {kind}; "
                f"tasks that apply: {', '.join(fitting) or 'none yet'}"
            )
        if protocols.view_roles(task.spec.protocol):
            raise RequestError(
                f"task {task.spec.name} trains on augmented views of the images, which --features does not hold: give "
                f"--model and --dataset; tasks that apply to features: {', '.join(fitting)}"
            )
        roles = self._handed_roles(task)
        if not set(roles) <= set(self.handed.banks):
            raise RequestError(
                f"task {task.spec.name} needs the features {', '.join(roles)}; the file's are {kind}, and the suite "
                "makes copies of images only"
            )
        sizes = {role: len(self.handed.banks[role]) for role in roles}
        protocols.load(task.spec.protocol).check_sizes(task.params, sizes)
        return PlannedCell(task=task, dataset_reference=self.handed.name, model=None, dataset=None)

    def _fitting(self, kind: DatasetKind) -> list[str]:
        return [name for name in self._registry.tasks if kind in self._registry.task(name).kinds]

    def _handed_roles(self, task: PlannedTask) -> tuple[str, ...]:
        return protocols.roles(task.spec.protocol, self.handed.kind, self.handed.banks)

    def roles(self, cell: PlannedCell) -> tuple[str, ...]:
        """Returns the splits that the cell reads."""
        if cell.model is None:
            return self._handed_roles(cell.task)
        assert cell.dataset is not None
        return protocols.roles(cell.task.spec.protocol, cell.dataset.kind, cell.dataset.sources)

    def bank_roles(self, cell: PlannedCell) -> tuple[str, ...]:
        """Returns the splits that the cell reads as banks: all but those that it sees in augmented views."""
        seen = protocols.view_roles(cell.task.spec.protocol)
        return tuple(role for role in self.roles(cell) if role not in seen)

    def limit(self, dataset: Dataset, role: str) -> int | None:
        """Returns the limit of a split, or None where it takes nothing away."""
        limit = self.request.limit.get(role, self.request.limit.get(""))
        return limit if limit is not None and limit < dataset.num_items(role) else None

    def _count(self, dataset: Dataset, role: str) -> int:
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

    def identity(self, cell: PlannedCell, skipped: Mapping[str, Sequence[str]]) -> results.Identity:
        """Returns what a record of the cell must agree with; `skipped` are the corrupt items left out, by split."""
        spec = cell.task.spec
        kind = self.handed.kind if cell.dataset is None else cell.dataset.kind
        task = results.TaskIdentity(
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
            model = results.ModelIdentity(
                name=self.model_name(cell),
                architecture="unknown",
                pooling="unknown",
                embed_dim=next(iter(self.handed.banks.values())).features.shape[1],
                weights_sha256=sha256,
                weights_hash_of="features",
            )
            fingerprint, limit = sha256, {}
            keys = {role: sha256_of([sha256, role]) for role in self._handed_roles(cell.task)}
        else:
            assert cell.dataset is not None
            card = cell.model.card.pooled(spec.pooling)
            model = results.ModelIdentity(
                **card.model_dump(
                    include={"name", "architecture", "pooling", "embed_dim", "weights_sha256", "weights_hash_of"}
                )
            )
            fingerprint = cell.dataset.fingerprint
            roles = self.roles(cell)
            limits = {role: self.limit(cell.dataset, role) for role in roles}
            limit = {role: count for role, count in limits.items() if count is not None}
            keys = {role: self.key(cell, role).digest for role in roles}
        return results.Identity(
            model=model,
            task=task,
            dataset=results.DatasetIdentity(
                name=cell.dataset_reference,
                fingerprint=fingerprint,
                limit=limit,
                skipped={role: list(items) for role, items in skipped.items() if items},
            ),
            preprocessing=self.preprocessing(cell),
            precision=self.request.extraction.precision if cell.model is not None else "unknown",
            feature_keys=keys,
            backend=self.backend.name,
        )

    def departures(self, cell: PlannedCell, identity: results.Identity) -> list[str]:
        """Returns how the run departs from its task."""
        departures = list(cell.task.departures)
        departures += [f"--limit {role}={count}" for role, count in sorted(identity.dataset.limit.items())]
        if identity.precision not in ("fp32", "unknown"):
            departures.append(f"--precision {identity.precision}")
        departures += [
            f"{len(items)} corrupt {role} images skipped" for role, items in identity.dataset.skipped.items()
        ]
        return departures

    def finished(self, cell: PlannedCell) -> tuple[Path, ResultRecord | None]:
        """Returns where the cell's record belongs, and the record where one of the same identity is there."""
        identity = self.identity(cell, {})
        path = results.record_path(self.request.results_dir, identity, self.departures(cell, identity))
        if self.request.force or not path.is_file():
            return path, None
        record = results.read_record(path)
        return path, record if record.identity_sha256 == identity.digest else None

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
        images = [f"{role} {self._count(dataset, role):,}" for role in to_do]
        images += [f"{role} in augmented views, {self._count(dataset, role):,} an epoch at most" for role in seen]
        return plan("extract", path, f"images through the model on {self.device}: {', '.join(images)}")

    def model_name(self, cell: PlannedCell) -> str:
        """Returns the model's name in the results."""
        return cell.model.card.name if cell.model is not None else self.request.name or "features"


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """Returns (seconds, value) of a call."""
    start = time.perf_counter()
    value = call()
    return time.perf_counter() - start, value
