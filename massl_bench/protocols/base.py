"""What a protocol is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, get_args

import numpy as np

from massl_bench.core.kinds import DatasetKind
from massl_bench.core.memory import Extent, Memory
from massl_bench.core.strict import StrictModel
from massl_bench.core.values import EvaluationData, Score

Parameters = TypeVar("Parameters", bound=StrictModel)

NumItems = Mapping[str, int]
"""The sizes of the splits, by role."""


@dataclass(frozen=True, kw_only=True)
class Protocol(Generic[Parameters]):
    """The description of a protocol, which its module has under the name `PROTOCOL`; checked when it is made.

    Several tasks may share a protocol, so its errors do not name the task: who calls has it put before the text, and
    into `--set PARAMETER=VALUE`.
    """

    roles: tuple[str, ...]
    """The splits that it needs (`("train", "test")`)."""
    params: type[Parameters]
    """Its parameters, without defaults: they stand in the task's file."""
    metric_names: Callable[[Parameters], Sequence[str]]
    """Returns the names of the metrics that `run` returns."""
    check_sizes: Callable[[Parameters, NumItems], None]
    """Raises `RequestError` where a split has too few items for the parameters, before any work starts."""
    run: Callable[[EvaluationData, Parameters, np.random.Generator], Mapping[str, Score]]
    """Arrays and a generator in, scores by metric name out. Pure. `Scores` also hold notes, and what each item got."""

    optional_roles: tuple[str, ...] = ()
    """Splits that it reads where the dataset has them."""
    roles_of_kind: Mapping[DatasetKind, tuple[str, ...]] = field(default_factory=dict)
    """Splits in place of `roles`, for a kind of dataset."""
    view_roles: tuple[str, ...] = ()
    """Splits that go through the network again in place of a bank, `train` in augmented views (`EvaluationData.views`),
    others as they are (`EvaluationData.streams`); it computes with torch."""
    headlines: Mapping[DatasetKind, tuple[str, ...]] = field(default_factory=dict)
    """By kind of dataset, the metrics that the task's own headline does not exist for, the headline first."""
    named_by_truth: str | None = None
    """The split whose rows its ground truth names; None for a protocol that asks for no ground truth."""
    metrics_of_truth: Callable[[Parameters, Any], Sequence[str]] | None = None
    """Returns those of its metrics that a ground truth leaves something to find for; None: all, whatever it says."""
    fitted: Callable[[Parameters, NumItems], Parameters] | None = None
    """Returns parameters without those values of lists that are too large for the splits; None: nothing is dropped."""
    unfit_for_suites: Callable[[Parameters], str | None] | None = None
    """Returns what a task of these parameters does that no table should hold (choose on test images); None: nothing."""
    tests_heads: bool = False
    """Whether its test split may be of another dataset than its training split (`EvaluationData.head_test`)."""
    fit: Callable[[EvaluationData, Parameters, np.random.Generator], Any] | None = None
    """Returns what is trained, of all splits but the test split: it is kept for other test splits, and `run` is `test`
    of it. None: nothing is worth keeping."""
    test: Callable[[Any, EvaluationData, Parameters, np.random.Generator], Mapping[str, Score]] | None = None
    """Returns the scores of what `fit` returned; the generator goes on from there."""
    scale: int = 100
    """What people see is a metric times this: 100 for fractions, which are shown in percent."""
    needs_torch: bool = False
    """Whether it computes with torch."""
    memory: Callable[[Parameters, Extent], Memory] | None = None
    """Returns what it holds beside its features; None for a protocol that nobody has counted it of."""

    def __post_init__(self) -> None:
        """Raises `ValueError`, naming the field, for a description that contradicts itself."""
        for name, problem in self._problems():
            if problem is not None:
                raise ValueError(f"PROTOCOL.{name}: {problem}")

    @property
    def possible_roles(self) -> set[str]:
        """Every split that it may read, of any kind of dataset."""
        return {*self.roles, *self.optional_roles, *(role for each in self.roles_of_kind.values() for role in each)}

    def _problems(self) -> list[tuple[str, str | None]]:
        """Returns (field, what is wrong with it, or None)."""
        lists = {"roles": self.roles, "optional_roles": self.optional_roles, "view_roles": self.view_roles}
        lists |= {f"roles_of_kind[{kind!r}]": each for kind, each in self.roles_of_kind.items()}
        lists |= {f"headlines[{kind!r}]": each for kind, each in self.headlines.items()}
        problems = [
            (name, _wrong_names(each, empty=name in ("optional_roles", "view_roles"))) for name, each in lists.items()
        ]
        for name in ("roles_of_kind", "headlines"):
            unknown = sorted(set(getattr(self, name)) - set(get_args(DatasetKind)))
            known = ", ".join(get_args(DatasetKind))
            problems.append((name, f"{unknown[0]!r} is no kind of dataset: {known}" if unknown else None))
        problems.append(("params", _wrong_params(self.params)))
        calls = {"metric_names": 1, "check_sizes": 2, "run": 3}
        optional = {"metrics_of_truth": 2, "fitted": 2, "unfit_for_suites": 1, "fit": 3, "test": 4, "memory": 2}
        for name, count in (calls | optional).items():
            given = getattr(self, name)
            problems.append((name, None if given is None and name in optional else _wrong_call(given, count)))
        strange = sorted(set(self.view_roles) - self.possible_roles)
        problems.append(("view_roles", f"{strange[0]!r} is none of the roles" if strange else None))
        if self.named_by_truth is not None and self.named_by_truth not in self.roles:
            problems.append(("named_by_truth", f"{self.named_by_truth!r} is none of the roles"))
        if (self.fit is None) != (self.test is None):
            problems.append(("fit", "belongs together with test: one of them is None"))
        if self.metrics_of_truth is not None and self.named_by_truth is None:
            problems.append(("metrics_of_truth", "there is no ground truth: named_by_truth is None"))
        if not isinstance(self.scale, int) or self.scale < 1:
            problems.append(("scale", f"expected a whole number from 1, got {self.scale!r}"))
        return problems


def _wrong_names(names: object, *, empty: bool) -> str | None:
    if not isinstance(names, tuple) or not all(isinstance(name, str) and name for name in names):
        return f"expected a tuple of names, got {names!r}"
    if not names and not empty:
        return "expected at least one name"
    return f"a name is there twice: {names!r}" if len(set(names)) < len(names) else None


def _wrong_params(params: object) -> str | None:
    if not (isinstance(params, type) and issubclass(params, StrictModel)):
        return f"expected a subclass of {StrictModel.__module__}.StrictModel, got {params!r}"
    with_default = [name for name, each in params.model_fields.items() if not each.is_required()]
    if with_default:
        return f"{with_default[0]} has a default: every number stands in the task's file"
    return None


def _wrong_call(given: object, count: int) -> str | None:
    if not callable(given):
        return f"expected a function, got {given!r}"
    try:
        inspect.signature(given).bind(*range(count))
    except TypeError:
        return f"expected a function of {count} arguments, got {given!r}"
    except ValueError:  # some callables of extension modules do not tell
        return None
    return None
