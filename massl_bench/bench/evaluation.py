"""A task on banks or arrays, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from massl_bench import protocols
from massl_bench.bench.arrays import Handed, banks_of, truth_of
from massl_bench.bench.scores import TaskScores
from massl_bench.core.devices import resolve_device
from massl_bench.core.errors import RequestError, unknown_name
from massl_bench.core.kinds import LABELLED_KINDS, DatasetKind
from massl_bench.core.values import (
    CopyTruth,
    EvaluationData,
    FeatureBank,
    GroundTruth,
    QueryTruth,
)
from massl_bench.learners.faiss_backend import resolve_backend
from massl_bench.specs.registry import Registry
from massl_bench.specs.task import TaskSpec


def evaluate(
    task: str,
    banks: Mapping[str, Handed] | None = None,
    *,
    train: Handed = None,
    val: Handed = None,
    test: Handed = None,
    database: Handed = None,
    queries: Handed = None,
    originals: Handed = None,
    distractors: Handed = None,
    whitening: Handed = None,
    features: Handed = None,
    ground_truth: Sequence[QueryTruth] | CopyTruth | Any = None,
    params: Mapping[str, Any] | None = None,
    seed: int | None = None,
    device: str = "cpu",
    **parameters: Any,
) -> TaskScores:
    """Returns the scores of a task on features that are there already.

    ```python
    mb.evaluate("knn", train=(X, y), test=(X_test, y_test), k=20)
    mb.evaluate("linear", mb.extract(encoder, "cifar10"))
    mb.evaluate("retrieval", database=X, queries=Q, ground_truth=[{"easy": [3], "hard": [], "junk": [7]}, ...])
    mb.evaluate("copy-detection", originals=X, queries=Q, ground_truth=[0, 0, 1, ...])
    mb.evaluate("spectrum", features=X)
    ```

    Args:
        task: a name of the registry, as in `knn`.
        banks: by role, in place of the keywords after it: what `extract` returns, or any of the following.
        train: features [N, D] with their labels, [N] (any values) or [N, C] (1 present, 0 difficult, −1 absent; or 1
            and 0): a pair of arrays, tensors, data frames or lists; or a bank.
        val: the publisher's validation items, where a task selects on them.
        test: as `train`.
        database: features [N, D] to search in, of retrieval.
        queries: features [Q, D] of retrieval and copy detection.
        originals: features of the images that were copied.
        distractors: features of images that nothing is a copy of.
        whitening: features that whitening is learned on.
        features: features of any images, for tasks without labels.
        ground_truth: what the queries should find: for each, a `QueryTruth` or a dictionary of the rows `easy`, `hard`
            and `junk`; or, of copy detection, a `CopyTruth` or the row of each query's original (−1: of none).
        params: parameters that replace the task's own; so do further keywords.
        seed: in place of the task's own.
        device: where neighbours are searched and heads are trained: `auto`, `cpu`, `cuda` or `cuda:i`. k-NN takes
            tensors that lie there as they are.
        **parameters: as in `k=20`; a parameter that is a list takes one value, too.

    Raises:
        RequestError: The task is unknown, something is missing, the task or its parameters do not fit what was handed
            in, or the device is not there.
    """
    registry = Registry()
    spec = _with_parameters(registry.task(task), {**(params or {}), **parameters})
    if protocols.view_roles(spec.protocol):
        raise RequestError(
            "trains on augmented views of the images, which features do not hold",
            where=task,
            remedy=f"give benchmark the images (tasks={task!r}), or take the task linear",
        )
    given = {
        "train": train,
        "val": val,
        "test": test,
        "database": database,
        "queries": queries,
        "originals": originals,
        "distractors": distractors,
        "whitening": whitening,
        "all": features,
    }
    handed = {role: value for role, value in given.items() if value is not None}
    if banks is not None and handed:
        raise RequestError(f"{task}: banks and {min(handed)} were both given: put it into banks, or leave banks out")
    found, assumptions = banks_of(banks if banks is not None else handed)
    if "features" in found:
        found["all"] = found.pop("features")
    data = _data(spec, found, truth_of(ground_truth), device, registry)
    checked = protocols.parameters(spec, f"task {task}", check_headline="headline" in {**(params or {}), **parameters})
    fitting = protocols.fitted(spec, checked, {role: len(bank) for role, bank in data.banks.items()})
    checked = checked if fitting is None else fitting.params
    scores = protocols.run(spec, checked, data, np.random.default_rng(spec.seed if seed is None else seed))
    return TaskScores(
        scores,
        task=task,
        headline_name=_headline(spec, _kind(spec, found), list(scores)),
        scale=protocols.scale(spec.protocol),
        notes=(*assumptions, *(() if fitting is None else (fitting.departure,)), *scores.notes),
    )


def _data(
    spec: TaskSpec, found: Mapping[str, FeatureBank], truth: GroundTruth | None, device: str, registry: Registry
) -> EvaluationData:
    needed = _roles(spec, found)
    _check_labels(spec, found, needed, registry)
    counts = [found[role].num_classes for role in needed]
    return EvaluationData(
        banks={role: found[role] for role in needed},
        num_classes=max((count for count in counts if count is not None), default=None),
        backend=resolve_backend(resolve_device(device)),
        ground_truth=truth,
    )


def _with_parameters(spec: TaskSpec, changes: Mapping[str, Any]) -> TaskSpec:
    for name in changes:
        if name not in (*spec.params, "headline"):
            raise unknown_name(f"parameter of {spec.name}", name, [*spec.params, "headline"])
    headline = changes.get("headline", spec.headline)
    params = {name: value for name, value in changes.items() if name != "headline"}
    return spec.with_params(params).model_copy(update={"headline": headline})


def _roles(spec: TaskSpec, banks: Mapping[str, FeatureBank]) -> tuple[str, ...]:
    needed = protocols.roles(spec.protocol, _kind(spec, banks), banks)
    missing = [role for role in needed if role not in banks]
    if missing:
        found = ", ".join(banks) or "nothing"
        raise RequestError(f"{spec.name}: needs {', '.join(needed)}; missing: {', '.join(missing)}; found {found}")
    return needed


def _kind(spec: TaskSpec, banks: Mapping[str, FeatureBank]) -> DatasetKind:
    """Returns the kind of dataset that the banks are of."""
    if set(banks) == {"all"}:
        return "unlabelled"
    multi = any(bank.labels is not None and bank.labels.ndim == 2 for bank in banks.values())
    return "multi-label" if multi and "multi-label" in spec.kinds else spec.kinds[0]


def _check_labels(spec: TaskSpec, banks: Mapping[str, FeatureBank], needed: Sequence[str], registry: Registry) -> None:
    labelled: set[DatasetKind] = {
        "single-label" if labels.ndim == 1 else "multi-label"
        for labels in (banks[role].labels for role in needed)
        if labels is not None
    }
    if LABELLED_KINDS & set(spec.kinds) and not labelled <= set(spec.kinds):
        found = min(labelled - set(spec.kinds))
        raise RequestError(
            f"{spec.name}: needs {' or '.join(spec.kinds)} banks, and these are {found}; "
            f"tasks that apply: {', '.join(protocols.tasks_on_features(found, registry))}"
        )


def _headline(spec: TaskSpec, kind: DatasetKind, measured: Sequence[str]) -> str:
    """Returns the task's headline, or the metric that takes its place under other parameters (`top1@5`)."""
    headline = protocols.headline(spec, kind)
    if headline in measured:
        return headline
    start = headline.partition("@")[0]
    return next((name for name in measured if name.partition("@")[0] == start), measured[0])
