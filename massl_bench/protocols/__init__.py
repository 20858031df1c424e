"""The protocols: one module each, found by its name, here or in an installed plugin.

A protocol's module describes it in one value, `PROTOCOL`: see `massl_bench.protocols.base`. What several share is in
`massl_bench.protocols.shared`; no protocol imports another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from massl_bench.core.errors import MasslBenchError, RequestError, SpecError, unknown_name
from massl_bench.core.kinds import DatasetKind
from massl_bench.core.memory import Extent, Memory
from massl_bench.core.strict import StrictModel, first_problem
from massl_bench.core.values import EvaluationData, GroundTruth, Scores
from massl_bench.core.wording import asked, of_task
from massl_bench.protocols.base import Protocol
from massl_bench.specs.dataset import CorruptionsSpec
from massl_bench.specs.found import part_modules
from massl_bench.specs.plugins import PROTOCOLS_GROUP
from massl_bench.specs.registry import Registry
from massl_bench.specs.suite import SuiteSpec
from massl_bench.specs.task import TaskSpec


def roles(name: str, kind: DatasetKind, available: Iterable[str]) -> tuple[str, ...]:
    """Returns the splits that a protocol reads of a dataset: those that it needs, then optional ones that are there."""
    protocol, there = load(name), set(available)
    needed = protocol.roles_of_kind.get(kind, protocol.roles)
    return (*needed, *(role for role in protocol.optional_roles if role in there))


def check_sizes(task: TaskSpec, params: StrictModel, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` where a split has too few items for a task's parameters."""
    with _errors_of(task):
        load(task.protocol).check_sizes(params, num_items)


def memory(task: TaskSpec, params: StrictModel, extent: Extent) -> Memory | None:
    """Returns what a task holds beside its features; None where nobody has counted it."""
    counted = load(task.protocol).memory
    return None if counted is None else counted(params, extent)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A task's parameters without values that are too large for its data."""

    params: StrictModel
    headline: str
    """The task's, or the metric that stands in for it."""
    departure: str
    """What was dropped, and why: the record is of another task than the one that was asked for."""


def fitted(task: TaskSpec, params: StrictModel, num_items: Mapping[str, int]) -> Fitted | None:
    """Returns parameters that fit the sizes of the splits, where some values of a task's do not and others do."""
    protocol = load(task.protocol)
    fitting = params if protocol.fitted is None else protocol.fitted(params, num_items)
    before, after = params.model_dump(mode="json"), fitting.model_dump(mode="json")
    dropped = [
        f"{name} = {', '.join(str(value) for value in before[name] if value not in after[name])}"
        for name in before
        if before[name] != after[name]
    ]
    if not dropped:
        return None
    sizes = ", ".join(f"{role} {count}" for role, count in num_items.items())
    return Fitted(
        params=fitting,
        headline=_stand_in(task.headline, protocol.metric_names(fitting)),
        departure=f"{'; '.join(dropped)} dropped, too large for {sizes}",
    )


def _stand_in(headline: str, measured: Sequence[str]) -> str:
    """Returns the headline, or of its kind (`top1@…`) the last that is measured."""
    same = [metric for metric in measured if metric.partition("@")[0] == headline.partition("@")[0]]
    return headline if headline in measured else (same or list(measured))[-1]


def run(task: TaskSpec, params: StrictModel, data: EvaluationData, rng: np.random.Generator) -> Scores:
    """Returns the scores of a task by metric name; raises what its protocol raises."""
    with _errors_of(task):
        found = load(task.protocol).run(data, params, rng)
    return found if isinstance(found, Scores) else Scores(found)


def trains_heads(name: str) -> bool:
    """Tells whether a protocol trains something that several test splits can share: `fit`, then `test`."""
    return load(name).fit is not None


def fit(task: TaskSpec, params: StrictModel, data: EvaluationData, rng: np.random.Generator) -> Any:
    """Returns what a task trains, before it is tested; raises what its protocol raises."""
    with _errors_of(task):
        train = load(task.protocol).fit
        assert train is not None  # asked for by `trains_heads`
        return train(data, params, rng)


def test(task: TaskSpec, params: StrictModel, head: Any, data: EvaluationData, rng: np.random.Generator) -> Scores:
    """Returns the scores of what `fit` returned; raises what its protocol raises."""
    with _errors_of(task):
        measure = load(task.protocol).test
        assert measure is not None  # there where `fit` is
        found = measure(head, data, params, rng)
    return found if isinstance(found, Scores) else Scores(found)


@contextmanager
def _errors_of(task: TaskSpec) -> Iterator[None]:
    """Names the task in the errors of its protocol, which several tasks may share.

    A protocol knows its parameters, and not the name of the task, which the command line needs.
    """
    try:
        yield
    except MasslBenchError as error:
        error.args = (of_task(f"{task.name}: {error}", task.name),)
        raise


def view_roles(name: str) -> tuple[str, ...]:
    """Returns the splits that a protocol sees in augmented views (`EvaluationData.views`) in place of a bank."""
    return load(name).view_roles


def tasks_on_features(kind: DatasetKind, registry: Registry) -> list[str]:
    """Returns the tasks that apply to features of a kind of dataset: those that need no images."""
    return [name for name in registry.tasks_for(kind) if needs_images(registry.task(name)) is None]


def needs_images(task: TaskSpec) -> str | None:
    """Returns what a task does with images and their network that features do not hold; None for nothing."""
    if view_roles(task.protocol):
        return "trains on augmented views of the images"
    if task.pooling is not None and task.pooling.needed:
        return f"reads {task.pooling.words} of a network"
    return None


def scale(name: str) -> int:
    """Returns what a protocol's metrics are multiplied by for people: 100 for fractions."""
    return load(name).scale


def possible_roles(name: str) -> set[str]:
    """Returns every split that a protocol may read, of any kind of dataset."""
    return load(name).possible_roles


def headline(task: TaskSpec, kind: DatasetKind) -> str:
    """Returns the metric that a leaderboard shows of a task on a kind of dataset."""
    measured = load(task.protocol).headlines.get(kind, ())
    return measured[0] if measured and task.headline not in measured else task.headline


def check_suite(suite: SuiteSpec, registry: Registry) -> None:
    """Raises `SpecError` for a task that no suite may have, and for a metric that a task does not measure."""
    for name in dict.fromkeys(cell.task for cell in suite.cells):
        task = registry.task(name)
        unfit = load(task.protocol).unfit_for_suites
        why = None if unfit is None else unfit(parameters(task, str(registry.tasks[name])))
        if why is not None:
            raise SpecError(f"{registry.suites[suite.name]}: cells: {name} {why}, and is for no table")
    for (task_name, dataset), metric in suite.headlines.items():
        task, spec = registry.task(task_name), registry.dataset(dataset)
        measured = metrics_of(task, spec.kind, str(registry.tasks[task_name]))
        measured += _errors(measured, spec.corruptions)
        if metric not in measured:
            raise SpecError(
                f"{registry.suites[suite.name]}: cells: headline {metric!r} is not a metric of {task_name} on "
                f"{dataset}: {', '.join(measured)}"
            )


def _errors(metrics: Sequence[str], corruptions: CorruptionsSpec | None) -> list[str]:
    """Returns what is measured beside the accuracies where the test images are corrupted."""
    if corruptions is None:
        return []
    names = ["mce_plain", *(["mce"] if corruptions.reference is not None else [])]
    accuracies = [metric for metric in metrics if metric.partition("@")[0] == "top1"]
    return [name + metric.removeprefix("top1") for metric in accuracies for name in names]


def metrics_of(task: TaskSpec, kind: DatasetKind, origin: str) -> list[str]:
    """Returns the metrics that a task measures on a kind of dataset; raises as `parameters`, naming `origin`."""
    protocol = load(task.protocol)
    if kind in protocol.headlines:
        return list(protocol.headlines[kind])
    others = {metric for metrics in protocol.headlines.values() for metric in metrics}
    return [metric for metric in protocol.metric_names(parameters(task, origin)) if metric not in others]


def named_by_truth(name: str) -> str | None:
    """Returns the split whose rows a protocol's ground truth names, or None for a protocol that asks for none."""
    return load(name).named_by_truth


def check_headline(task: TaskSpec, params: StrictModel, truth: GroundTruth, place: str) -> None:
    """Raises `RequestError` where a ground truth leaves nothing to measure a task's headline on.

    Args:
        task: the task.
        params: its parameters.
        truth: what the queries should find.
        place: where that comes from, for the error.
    """
    protocol = load(task.protocol)
    if protocol.metrics_of_truth is None:
        return
    measured = protocol.metrics_of_truth(params, truth)
    if task.headline not in measured:
        shown = asked("params", f"{task.name}.headline={measured[0]}") if measured else None
        raise RequestError(
            f"no query of {place} has anything to find for the headline {task.headline}",
            where=task.name,
            remedy=shown or "nothing else can be measured either",
        )


def needs_torch(name: str) -> bool:
    """Returns whether the protocol itself computes with torch, which must be imported before faiss."""
    return load(name).needs_torch


def names() -> list[str]:
    """Returns the names of all protocols: those of this package, and those of installed plugins."""
    return sorted(part_modules(__name__, PROTOCOLS_GROUP))


def load(name: str) -> Protocol[Any]:
    """Returns the protocol of that name.

    Raises:
        RequestError: There is none; the text has near names.
        SpecError: A plugin is broken; the text names its package.
    """
    modules = part_modules(__name__, PROTOCOLS_GROUP)
    if name not in modules:
        raise unknown_name("protocol", name, modules)
    found = modules[name].load()
    if not isinstance(found, Protocol):
        raise SpecError(f"{modules[name].who}: PROTOCOL is {found!r}; expected a massl_bench.protocols.base.Protocol")
    return found


def parameters(task: TaskSpec, origin: str, *, check_headline: bool = True, changed: bool = False) -> StrictModel:
    """Returns the checked parameters of a task.

    Args:
        task: the task, possibly with parameters replaced by the user.
        origin: the file, or the option, that an error should name.
        check_headline: whether the headline must be among the metrics.
        changed: whether the user changed something, and may have to change the headline too.

    Raises:
        SpecError: A parameter is missing, unknown or of the wrong type, or the headline is not among the metrics.
    """
    protocol = load(task.protocol)
    try:
        params: StrictModel = protocol.params.model_validate(task.params)
    except ValidationError as error:
        raise SpecError(f"{origin}: params.{first_problem(error)}") from None
    metrics = protocol.metric_names(params)
    if check_headline and task.headline not in metrics:
        remedy = ""
        if changed:
            same = [metric for metric in metrics if metric.partition("@")[0] == task.headline.partition("@")[0]]
            remedy = f"; add {asked('params', f'{task.name}.headline={(same or metrics)[0]}')}"
        raise SpecError(
            f"{origin}: headline {task.headline!r} is not among the metrics of these parameters: {', '.join(metrics)}"
            f"{remedy}"
        )
    return params
