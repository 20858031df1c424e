"""Heads that are trained once, for every test set of a run that tests them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from massl_bench import protocols
from massl_bench.bench.planned import FeatureCell, ImageCell, MissingCell, PlannedCell
from massl_bench.core.errors import MasslBenchError, RequestError
from massl_bench.core.files import sha256_of
from massl_bench.core.values import EvaluationData, Scores
from massl_bench.core.wording import asked
from massl_bench.datasets import Dataset
from massl_bench.datasets.dataset import TRAINING_ROLES
from massl_bench.datasets.heads import head_test
from massl_bench.specs.registry import Registry

_Group = tuple[str, str, str]
"""Model, task and training data by their names: cells that may share a head."""


def with_head(
    found: Dataset | MasslBenchError, open_dataset: Callable[[str], Dataset | MasslBenchError]
) -> Dataset | MasslBenchError:
    """Returns a test set with the dataset whose head it tests, or why that is not there; others as they are."""
    if not isinstance(found, Dataset) or found.spec is None or found.spec.head is None:
        return found
    head = open_dataset(found.spec.head.dataset)
    if not isinstance(head, Dataset):
        return head
    # What is drawn of its test split is nothing to those who only train on it.
    drawn = {role: count for role, count in head.sample.items() if role in TRAINING_ROLES}
    return replace(found, head=head if drawn == head.sample else replace(head, sample=drawn))


def check_head_test(cell: ImageCell, registry: Registry) -> None:
    """Raises `RequestError` where a cell cannot test the head that its dataset is for."""
    head, task = cell.trained_on, cell.task.spec
    if head is None:
        return
    if not protocols.load(task.protocol).tests_heads:
        others = [(name, registry.task(name).protocol) for name in registry.tasks_for(cell.kind)]
        able = [name for name, protocol in others if protocols.load(protocol).tests_heads]
        raise RequestError(
            f"{cell.dataset.name} tests a head that is trained on {head.name}, which {task.name} does not train apart "
            f"from its test; tasks that do: {', '.join(able)}"
        )
    test = head_test(cell.dataset)
    if test is not None and test.corruptions is not None and "test" in cell.limits:
        count = len(test.corruptions.blocks)
        raise RequestError(
            f"the first {cell.limits['test']:,} items of {cell.dataset.name} are of some of its {count} blocks only",
            field="limit",
            remedy=f"{asked('sample', f'test={100 * count}')} draws the same images of each",
        )


class Heads:
    """Keeps what was trained as long as another cell of the run may test it.

    Args:
        cells: of the run, each of which is measured once.
    """

    def __init__(self, cells: Sequence[PlannedCell]) -> None:
        self._left = Counter(_group(cell) for cell in cells)
        self._kept: dict[str, tuple[_Group, Any, dict[str, Any]]] = {}

    def scores(self, cell: ImageCell | FeatureCell, data: EvaluationData) -> Scores:
        """Returns the scores of a cell, of a head that was trained for another one where that is the same."""
        spec, params, rng = cell.task.spec, cell.task.params, np.random.default_rng(cell.task.spec.seed)
        group = _group(cell)
        self._left[group] -= 1
        if isinstance(cell, FeatureCell) or not protocols.trains_heads(spec.protocol):
            return protocols.run(spec, params, data, rng)
        key = _key(cell, data)
        if key not in self._kept:
            of_model = {each: kept for each, kept in self._kept.items() if kept[0][0] == group[0]}
            self._kept = {each: kept for each, kept in of_model.items() if self._left[kept[0]] > 0}
            head = protocols.fit(spec, params, data, rng)
            self._kept[key] = group, head, dict(rng.bit_generator.state)
        _, head, state = self._kept[key]
        rng.bit_generator.state = state  # what the test draws is the same, whoever trained
        if self._left[group] <= 0:
            del self._kept[key]
        return protocols.test(spec, params, head, data, rng)


def _group(cell: PlannedCell) -> _Group:
    name = cell.dataset_reference
    if isinstance(cell, ImageCell) and cell.trained_on is not None:
        name = cell.trained_on.name
    if isinstance(cell, MissingCell):
        name = cell.trained_on or name
    return cell.model_name, cell.task.spec.name, name


def _key(cell: ImageCell, data: EvaluationData) -> str:
    """Returns the hash of all that a trained head depends on: what trains it, and how."""
    spec = cell.task.spec
    splits = {role: [cell.key(role).digest, list(bank.skipped)] for role, bank in data.banks.items() if role != "test"}
    params = cell.task.params.model_dump(mode="json")
    return sha256_of([spec.protocol, spec.version, params, spec.seed, splits, data.num_classes, str(data.backend)])
