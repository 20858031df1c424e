"""The protocols: one module each, found by its name, here or in an installed plugin.

A protocol module defines

* `ROLES`: the splits that it needs, by role (`("train", "test")`);
* `Params`: a strict pydantic model of its parameters, without defaults (they stand in the task's file);
* `metric_names(params)`: the names of the metrics that it will return;
* `check_sizes(params, num_items)`: raises `RequestError` where the splits are too small, before any work starts;
* `run(data, params, rng)`: arrays and a generator in, scores out. Pure;

and, where it needs them,

* `OPTIONAL_ROLES`: splits that it reads where the dataset has them;
* `ROLES_OF_KIND`: splits in place of `ROLES` for a kind of dataset;
* `VIEW_ROLES`: splits that it sees in augmented views (`EvaluationData.views`) in place of a bank;
* `HEADLINES`: by kind of dataset, the metrics that the task's own headline does not exist for, the headline first;
* `NAMED_BY_TRUTH`: the split whose rows its ground truth names;
* `metrics_of_truth(params, truth)`: those of its metrics that a ground truth leaves something to find for;
* `SCALE`: what people see is a metric times this; 100 (percent) where it is not said;
* `NEEDS_TORCH`: whether it computes with torch.

Several tasks may share a protocol, so its errors do not name the task: whoever calls `check_sizes` and `run` of this
package has it put before the text, and into `--set PARAMETER=VALUE`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import numpy as np
from pydantic import ValidationError

from massl_bench.core.errors import MasslBenchError, RequestError, SpecError, unknown_name
from massl_bench.core.strict import StrictModel, first_problem
from massl_bench.core.values import DatasetKind, EvaluationData, GroundTruth, Score, Scores
from massl_bench.specs import plugins
from massl_bench.specs.registry import Registry
from massl_bench.specs.suite import SuiteSpec
from massl_bench.specs.task import TaskSpec


class ProtocolModule(Protocol):
    """The interface of a protocol's module."""

    ROLES: tuple[str, ...]
    Params: type[StrictModel]

    def metric_names(self, params: Any) -> Sequence[str]:
        """Returns the names of the metrics that `run` returns."""

    def check_sizes(self, params: Any, num_items: Mapping[str, int]) -> None:
        """Raises `RequestError` where a split has too few items for the parameters."""

    def run(self, data: EvaluationData, params: Any, rng: np.random.Generator) -> dict[str, Score]:
        """Returns the scores by metric name."""


def roles(name: str, kind: DatasetKind, available: Iterable[str]) -> tuple[str, ...]:
    """Returns the splits that a protocol reads of a dataset: those that it needs, then optional ones that are there."""
    module = load(name)
    needed: tuple[str, ...] = getattr(module, "ROLES_OF_KIND", {}).get(kind, module.ROLES)
    there = set(available)
    return (*needed, *(role for role in getattr(module, "OPTIONAL_ROLES", ()) if role in there))


def check_sizes(task: TaskSpec, params: StrictModel, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` where a split has too few items for a task's parameters."""
    with _errors_of(task):
        load(task.protocol).check_sizes(params, num_items)


def run(task: TaskSpec, params: StrictModel, data: EvaluationData, rng: np.random.Generator) -> Scores:
    """Returns the scores of a task by metric name; raises what its protocol raises."""
    with _errors_of(task):
        found = load(task.protocol).run(data, params, rng)
    return found if isinstance(found, Scores) else Scores(found)


@contextmanager
def _errors_of(task: TaskSpec) -> Iterator[None]:
    """Names the task in the errors of its protocol, which several tasks may share.

    A protocol writes `--set k=20`, which becomes the option as the user has to write it: `--set knn.k=20`.
    """
    try:
        yield
    except MasslBenchError as error:
        error.args = (f"{task.name}: {error}".replace("--set ", f"--set {task.name}."),)
        raise


def view_roles(name: str) -> tuple[str, ...]:
    """Returns the splits that a protocol sees in augmented views (`EvaluationData.views`) in place of a bank."""
    return getattr(load(name), "VIEW_ROLES", ())


def tasks_on_features(kind: DatasetKind, registry: Registry) -> list[str]:
    """Returns the tasks that apply to features of a kind of dataset: those that need no augmented views."""
    return [name for name in registry.tasks_for(kind) if not view_roles(registry.task(name).protocol)]


def scale(name: str) -> int:
    """Returns what a protocol's metrics are multiplied by for people: 100 for fractions."""
    return getattr(load(name), "SCALE", 100)


def possible_roles(name: str) -> set[str]:
    """Returns every split that a protocol may read, of any kind of dataset."""
    module = load(name)
    of_kinds = [role for each in getattr(module, "ROLES_OF_KIND", {}).values() for role in each]
    return {*module.ROLES, *getattr(module, "OPTIONAL_ROLES", ()), *of_kinds}


def headline(task: TaskSpec, kind: DatasetKind) -> str:
    """Returns the metric that a leaderboard shows of a task on a kind of dataset."""
    measured: Sequence[str] = getattr(load(task.protocol), "HEADLINES", {}).get(kind, ())
    return measured[0] if measured and task.headline not in measured else task.headline


def check_suite(suite: SuiteSpec, registry: Registry) -> None:
    """Raises `SpecError` where a cell of a suite shows a metric that its task does not measure on its dataset."""
    for (task_name, dataset), metric in suite.headlines.items():
        task, kind = registry.task(task_name), registry.dataset(dataset).kind
        measured = metrics_of(task, kind, str(registry.tasks[task_name]))
        if metric not in measured:
            raise SpecError(
                f"{registry.suites[suite.name]}: cells: headline {metric!r} is not a metric of {task_name} on "
                f"{dataset}: {', '.join(measured)}"
            )


def metrics_of(task: TaskSpec, kind: DatasetKind, origin: str) -> list[str]:
    """Returns the metrics that a task measures on a kind of dataset; raises as `parameters`, naming `origin`."""
    module = load(task.protocol)
    of_kinds: Mapping[str, Sequence[str]] = getattr(module, "HEADLINES", {})
    if kind in of_kinds:
        return list(of_kinds[kind])
    others = {metric for metrics in of_kinds.values() for metric in metrics}
    return [metric for metric in module.metric_names(parameters(task, origin)) if metric not in others]


def named_by_truth(name: str) -> str | None:
    """Returns the split whose rows a protocol's ground truth names, or None for a protocol that asks for none."""
    role: str | None = getattr(load(name), "NAMED_BY_TRUTH", None)
    return role


def check_headline(task: TaskSpec, params: StrictModel, truth: GroundTruth, place: str) -> None:
    """Raises `RequestError` where a ground truth leaves nothing to measure a task's headline on.

    A module's `metrics_of_truth(params, truth)` are those of its metrics that can be measured.

    Args:
        task: the task.
        params: its parameters.
        truth: what the queries should find.
        place: where that comes from, for the error.
    """
    module = load(task.protocol)
    measured: Sequence[str] = getattr(module, "metrics_of_truth", lambda *_: [task.headline])(params, truth)
    if task.headline not in measured:
        remedy = f"--set {task.name}.headline={measured[0]}" if measured else "nothing else can be measured either"
        raise RequestError(
            f"{task.name}: no query of {place} has anything to find for the headline {task.headline}; {remedy}"
        )


def needs_torch(name: str) -> bool:
    """Returns whether the protocol itself computes with torch, which must be imported before faiss."""
    return bool(getattr(load(name), "NEEDS_TORCH", False))


def names() -> list[str]:
    """Returns the names of all protocols: those of this package, and those of installed plugins."""
    own = _own_names()
    return sorted([*own, *plugins.added_modules(plugins.PROTOCOLS_GROUP, own)])


def load(name: str) -> ProtocolModule:
    """Returns the protocol of that name.

    Raises:
        RequestError: There is none; the text has near names.
        SpecError: A plugin is broken; the text names its package.
    """
    own = _own_names()
    added = plugins.added_modules(plugins.PROTOCOLS_GROUP, own)
    if name in own:
        return cast(ProtocolModule, importlib.import_module(f"{__name__}.{name}"))
    if name not in added:
        raise unknown_name("protocol", name, names())
    return cast(ProtocolModule, plugins.load_module(added[name]))


def _own_names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__)]


def parameters(task: TaskSpec, origin: str, *, check_headline: bool = True) -> StrictModel:
    """Returns the checked parameters of a task.

    Args:
        task: the task, possibly with parameters replaced by the user.
        origin: the file, or the option, that an error should name.
        check_headline: whether the headline must be among the metrics.

    Raises:
        SpecError: A parameter is missing, unknown or of the wrong type, or the headline is not among the metrics.
    """
    protocol = load(task.protocol)
    try:
        params = protocol.Params.model_validate(task.params)
    except ValidationError as error:
        raise SpecError(f"{origin}: params.{first_problem(error)}") from None
    metrics = protocol.metric_names(params)
    if check_headline and task.headline not in metrics:
        remedy = ""
        if origin.startswith("--set"):
            same = [metric for metric in metrics if metric.partition("@")[0] == task.headline.partition("@")[0]]
            remedy = f"; add --set {task.name}.headline={(same or metrics)[0]}"
        raise SpecError(
            f"{origin}: headline {task.headline!r} is not among the metrics of these parameters: {', '.join(metrics)}"
            f"{remedy}"
        )
    return params
