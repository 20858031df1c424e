"""The names of a request become datasets and models, checked as far as they can be before work starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from massl_bench import protocols
from massl_bench.bench.cells import Cells
from massl_bench.bench.clock import timed
from massl_bench.bench.heads import check_head_test, with_head
from massl_bench.bench.planned import FeatureCell, ImageCell, MissingCell, PlannedCell, ReadyCell
from massl_bench.bench.request import PlannedTask, RunRequest
from massl_bench.bench.without import with_and_without
from massl_bench.core.devices import resolve_device
from massl_bench.core.errors import MasslBenchError, MissingDataError, RequestError
from massl_bench.core.values import CopyTruth
from massl_bench.core.wording import asked, option
from massl_bench.datasets import CopiesDataset, Dataset, check_boxes, open_dataset, with_copies
from massl_bench.features import Reporting
from massl_bench.learners import faiss_backend
from massl_bench.models import Model, ModelOptions, open_model
from massl_bench.records.reading import check_results_dir
from massl_bench.records.record import ModelFacts
from massl_bench.specs.registry import Registry

Cell = TypeVar("Cell", ImageCell, FeatureCell)


class Planner(Cells):
    """Resolves the names of one request, and checks what they stand for."""

    def __init__(self, request: RunRequest, registry: Registry, reporting: Reporting) -> None:
        super().__init__(request, reporting)
        self._registry = registry
        self._datasets: dict[str, Dataset | MasslBenchError] = {}
        self._with_copies: dict[tuple[str, str, int | None], CopiesDataset] = {}

    def plan(self) -> list[PlannedCell]:
        """Returns the cells, checked as far as they can be before work starts; writes nothing but memos of hashes.

        Raises:
            RequestError: The request cannot be carried out.
        """
        check_results_dir(self.request.results_dir)
        faiss_backend.check_installation()
        resolve_device(self.request.device)
        if self.request.suite is not None:
            protocols.check_suite(self._registry.suite(self.request.suite), self._registry)
            why = "of datasets of the registry, which say their columns and splits"
            self.request.data.check_used(asked("suite", self.request.suite), why=why)
        tasks = {name: self._plan_task(name) for name, _ in self.request.cells}
        unused = set(self.request.overrides) - set(tasks)
        if unused:
            raise RequestError(
                f"the task is not a part of this run; its tasks: {', '.join(tasks)}",
                field="params",
                found=f"{min(unused)}.…",
            )
        roles = {role for task in tasks.values() for role in protocols.possible_roles(task.spec.protocol)}
        unknown = sorted(set(self.request.limit) - roles - {""})
        if unknown:
            raise _no_such_split("limit", unknown[0], roles)
        unknown = sorted(set(self.request.data.sample) - roles)
        if unknown:
            raise _no_such_split("sample", unknown[0], roles)
        if self.request.features_file is not None:
            self._check_no_images_asked()
            return [self._plan_handed(tasks[task]) for task, _ in self.request.cells]
        # Datasets first: that is quick, and a typo there should not wait for a model to load.
        for task, dataset in self.request.cells:
            self.open_dataset(dataset)
            self.check_kind(tasks[task], dataset)
        cells: list[PlannedCell] = []
        for reference in self.request.models:
            seconds, model = timed(partial(self._open_model, reference))
            for task, dataset in self.request.cells:
                cell = self._plan_cell(tasks[task], dataset, model)
                cells.append(replace(cell, setup_seconds=seconds))
                seconds = 0.0
        without = self.request.without_duplicates
        return with_and_without(cells, without) if without is not None else cells

    def _plan_task(self, name: str) -> PlannedTask:
        spec = self._registry.task(name)
        origin = str(self._registry.tasks[name])
        protocols.parameters(spec, origin)
        departures = []
        changes = dict(self.request.overrides.get(name, {}))
        if changes:
            departures = [option("params", f"{name}.{key}={value}") for key, value in sorted(changes.items())]
            origin = asked("params", ", ".join(f"{name}.{key}" for key in sorted(changes)))
            headline = changes.pop("headline", spec.headline)
            unknown = sorted(set(changes) - set(spec.params))
            if unknown:
                raise RequestError(
                    f"{name} has the parameters {', '.join(spec.params)} and headline",
                    field="params",
                    found=f"{name}.{unknown[0]}",
                )
            spec = spec.with_params(changes).model_copy(update={"headline": headline})
        seed_given = self.request.seed is not None and self.request.seed != spec.seed
        if seed_given:
            departures.append(option("seed", self.request.seed))
            spec = spec.model_copy(update={"seed": self.request.seed})
        params = protocols.parameters(spec, origin, changed=bool(changes or departures))
        return PlannedTask(spec=spec, params=params, departures=tuple(departures), seed_given=seed_given)

    def _open_model(self, reference: str | Model) -> Model:
        if isinstance(reference, Model):
            self.reporting.say(reference.card.describe())
            return reference
        options = ModelOptions(
            cache_dir=self.request.data.cache_dir,
            settings=self.request.settings,
            download=not self.request.data.offline,
        )
        model = open_model(reference, self._registry, options)
        if self.request.name is not None:
            model = replace(model, card=model.card.model_copy(update={"name": self.request.name}))
        self.reporting.say(model.card.describe())
        for note in model.card.notes:
            self.reporting.say(f"{model.card.name}: {note}")
        return model

    def model_facts(self, cell: ReadyCell) -> ModelFacts:
        """Returns what is known of how a cell's model was trained, from its manifest, and its size."""
        if not isinstance(cell, ImageCell):
            return ModelFacts()
        card = cell.model.card
        manifests = self._registry.manifests
        training = self._registry.manifest(card.reference).training if card.reference in manifests else {}
        config = training.get("config")
        told = {key: config.get(key) for key in ("method", "epochs")} if isinstance(config, dict) else {}
        method, epochs = told.get("method"), told.get("epochs")
        return ModelFacts(
            method=method if isinstance(method, str) else None,
            epochs=epochs if isinstance(epochs, int) else None,
            num_parameters=card.num_parameters,
        )

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
            self._datasets[reference] = known = with_head(known, partial(self.open_dataset, fetch=fetch))
            if isinstance(known, Dataset):
                self._say_left_out(known)
        return known

    def _say_left_out(self, dataset: Dataset) -> None:
        if dataset.left_out:
            self.reporting.say(f"{dataset.name}: {dataset.left_out}")

    def as_task_reads(self, task: PlannedTask, dataset: Dataset) -> Dataset:
        """Returns the dataset, with generated copies where the task needs copies and nobody made any.

        Raises:
            RequestError: It has too few images for that.
        """
        how = task.spec.copies if dataset.kind == "unlabelled" or _is_own(dataset) else None
        if how is not None and dataset.kind != "unlabelled":
            dataset = dataset.as_images()
        if how is None and not isinstance(dataset, CopiesDataset):
            return dataset
        seed = task.spec.seed if task.seed_given else None
        key = dataset.name, how or "", seed
        if key not in self._with_copies:  # one object for all cells, which hashes the files once
            copied = dataset if isinstance(dataset, CopiesDataset) else with_copies(dataset, how or "", self._registry)
            drawn = {role: count for role, count in self.request.data.sample.items() if role in copied.sources}
            copied = replace(copied, sample=drawn, sample_seed=self.request.data.sample_seed)
            self._with_copies[key] = copied if seed is None else copied.seeded(seed)
            if copied.distinct.twins:
                self._say_left_out(copied)
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
        if isinstance(dataset, Dataset) and _is_own(dataset):
            problem = dataset.layout.label_problem()
            if task.spec.copies is not None:
                return  # labels are left alone
            if problem is not None and kind in task.spec.kinds and "unlabelled" not in task.spec.kinds:
                raise RequestError(f"task {task.spec.name} needs labels; {reference}: {problem}")
        if kind not in task.spec.kinds:
            raise RequestError(
                f"task {task.spec.name} needs a {' or '.join(task.spec.kinds)} dataset, and {reference} is {kind}; "
                f"tasks that apply: {', '.join(self._registry.tasks_for(kind)) or 'none yet'}"
                f"{_labelled_by_folders(dataset)}"
            )

    def _plan_cell(self, task: PlannedTask, reference: str, model: Model) -> PlannedCell:
        found = self.open_dataset(reference)

        def missing(problem: MasslBenchError) -> MissingCell:
            return MissingCell(
                task=task,
                dataset_reference=reference,
                model=model,
                request=self.request,
                problem=problem,
                trained_on=self._registry.head_of(reference),
            )

        if isinstance(found, MasslBenchError):
            return missing(found)
        dataset = self.as_task_reads(task, found)
        cell = ImageCell(task=task, dataset_reference=reference, model=model, dataset=dataset, request=self.request)
        pooling = task.spec.pooling
        if pooling is not None and not pooling.needed and model.card.pooled(pooling) == model.card:
            self.reporting.say(
                f"{model.card.name} {_why_own(model)}: {task.spec.name} takes its own feature ({model.card.pooling})"
            )
        try:
            model.card.check_gives(pooling)
            cell = self.fitted(cell)
            seconds, _ = timed(lambda: self.check_cell(cell))
        except RequestError as error:
            if self.request.suite is None:
                raise
            return missing(error)
        return replace(cell, data_seconds=seconds)

    def fitted(self, cell: Cell) -> Cell:
        """Returns the cell without parameters' values that are too large for its splits; says what was dropped."""
        spec = cell.task.spec
        found = protocols.fitted(spec, cell.task.params, cell.sizes)
        if found is None:
            return cell
        self.reporting.say(f"{spec.name} on {cell.dataset_reference}: {found.departure}")
        task = replace(
            cell.task,
            spec=spec.model_copy(update={"params": found.params.model_dump(mode="json"), "headline": found.headline}),
            params=found.params,
            departures=(*cell.task.departures, found.departure),
        )
        return replace(cell, task=task)

    def check_cell(self, cell: ImageCell) -> None:
        """Checks sizes against parameters, and the splits that will have to be read against their spec."""
        for role in cell.roles:
            if role not in cell.dataset.roles:
                raise RequestError(
                    f"{cell.dataset.name}: task {cell.task.spec.name} needs the splits {', '.join(cell.roles)}; "
                    f"it has {', '.join(cell.dataset.roles)}"
                )
            key = cell.key(role)
            if role not in cell.bank_roles or key not in self.cache:
                check_boxes(cell.dataset.holding(role).split(role), key.preprocessing)
        check_head_test(cell, self._registry)
        self._check_truth(cell)
        self._check_headline(cell)
        self.check_sizes(cell)
        self._check_limited_classes(cell)

    def _check_limited_classes(self, cell: ImageCell) -> None:
        """Raises `RequestError` where the first items of a split that has several classes are of one."""
        for role, limit in cell.limits.items():
            dataset = cell.dataset.holding(role)
            if dataset.kind != "single-label" or dataset.num_classes == 1:
                continue
            labels_N = dataset.split(role).labels
            if labels_N is not None and labels_N.ndim == 1 and (labels_N[:limit] == labels_N[0]).all():
                raise RequestError(
                    f"the first {limit:,} {role} items of {dataset.name} are of 1 of its {dataset.num_classes} classes",
                    field="limit",
                    remedy=f"{asked('sample', f'{role}={limit}')} draws as many from every class",
                )

    def _check_truth(self, cell: ImageCell) -> None:
        """Raises `RequestError` where a ground truth is missing, or where its rows would mean other images."""
        task, dataset = cell.task.spec, cell.dataset
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
            self.reporting.say(
                f"{dataset.name} ({dataset.place}): not there, and left out: {', '.join(truth.missing_blocks)}"
            )
        if isinstance(truth, CopyTruth) and truth.unlike_published:
            self.reporting.say(
                f"{dataset.name} ({dataset.place}): not as published: {', '.join(truth.unlike_published)}; "
                "was an archive unpacked in part?"
            )
        if cell.limit(named) is not None:
            raise RequestError(
                f"the ground truth of {dataset.name} names the rows of its {named}, which must therefore stay whole",
                field="limit",
                remedy=f"fewer queries are possible: {asked('limit', 'queries=N')}",
            )
        drawn = next((role for role in (named, "queries") if role in cell.sample), None)
        if drawn is not None:
            raise RequestError(
                f"the ground truth of {dataset.name} names its {named} and its queries by their rows, of which none "
                "are drawn",
                field="sample",
                found=f"{drawn}={cell.sample[drawn]}",
                remedy=f"fewer queries are possible: {asked('limit', 'queries=N')}",
            )

    def _check_headline(self, cell: ReadyCell) -> None:
        """Raises `RequestError` where the ground truth leaves nothing to measure the headline on."""
        truth = cell.ground_truth()
        if truth is not None:
            protocols.check_headline(cell.task.spec, cell.task.params, truth, cell.dataset_reference)

    def _check_no_images_asked(self) -> None:
        """Raises `RequestError` for options of models and images, which features that are handed in have none of."""
        given = {
            "limit": self.request.limit,
            "sample": self.request.data.sample,
            **dict(self.request.settings.named),
            "precision": self.request.extraction.precision != "fp32",
            "skip_corrupt": self.request.extraction.skip_corrupt,
        }
        for name, value in given.items():
            if value:
                raise RequestError(
                    f"is for {asked('model')} and {asked('dataset')}",
                    field=name,
                    remedy=f"{asked('features')} is taken whole: leave it out",
                )
        self.request.data.check_used(asked("features"), why="arrays, which are taken whole")

    def _plan_handed(self, task: PlannedTask) -> PlannedCell:
        kind = self.handed.kind
        fitting = protocols.tasks_on_features(kind, self._registry)
        if kind not in task.spec.kinds:
            raise RequestError(
                f"task {task.spec.name} needs {' or '.join(task.spec.kinds)} features; the file's are {kind}; "
                f"tasks that apply: {', '.join(fitting) or 'none yet'}"
            )
        needs = protocols.needs_images(task.spec)
        if needs is not None:
            raise RequestError(
                f"task {task.spec.name} {needs}, which {asked('features')} does not hold: give {asked('model')} and "
                f"{asked('dataset')}; tasks that apply to features: {', '.join(fitting)}"
            )
        cell = FeatureCell(task=task, handed=self.handed, request=self.request)
        roles = cell.roles
        if not set(roles) <= set(self.handed.banks):
            raise RequestError(
                f"task {task.spec.name} needs the features {', '.join(roles)}; the file's are {kind}, and the suite "
                "makes copies of images only"
            )
        cell = self.fitted(cell)
        self.check_sizes(cell)
        self._check_headline(cell)
        return cell


def _no_such_split(setting: str, role: str, roles: Iterable[str]) -> RequestError:
    text = f"no task of this run has such a split; {', '.join(sorted(roles))}"
    return RequestError(text, field=setting, found=f"{role}=…")


def _why_own(model: Model) -> str:
    given = model.card.settings.pooling
    return f"was given {asked('pooling', given)}" if given is not None else "has no class and patch tokens"


def _is_own(dataset: Dataset) -> bool:
    """Tells whether it is data of the user's that has classes."""
    return dataset.spec is None and dataset.kind == "single-label"


def _labelled_by_folders(dataset: Dataset | MasslBenchError) -> str:
    """Returns how a folder of images would have classes."""
    if not isinstance(dataset, Dataset) or dataset.layout.kind != "images":
        return ""
    return (
        "; classes are the folders under train/ and test/ (or val/); a folder of class folders is divided by "
        f"{asked('split_share', 0.2)}"
    )
