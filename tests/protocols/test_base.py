"""What a protocol says of itself is checked when it is made; no protocol imports another."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from pydantic import Field

import massl_bench as mb
from massl_bench import protocols
from massl_bench.core.strict import StrictModel
from massl_bench.core.values import EvaluationData, Score
from massl_bench.protocols.base import Protocol


class Params(StrictModel):
    k: int = Field(gt=0)


class WithDefault(StrictModel):
    k: int = 20


def metric_names(params: Params) -> list[str]:
    return ["top1"]


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    return None


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> dict[str, Score]:
    return {"top1": Score(value=0.5)}


GOOD = {
    "roles": ("train", "test"),
    "params": Params,
    "metric_names": metric_names,
    "check_sizes": check_sizes,
    "run": run,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"roles": ()}, "PROTOCOL.roles: expected at least one name"),
        ({"roles": ["train"]}, r"PROTOCOL.roles: expected a tuple of names, got \['train'\]"),
        ({"roles": "train"}, "PROTOCOL.roles: expected a tuple of names, got 'train'"),
        ({"roles": ("train", "train")}, "PROTOCOL.roles: a name is there twice"),
        (
            {"roles_of_kind": {"unlabeled": ("all",)}},
            "PROTOCOL.roles_of_kind: 'unlabeled' is no kind of dataset: single-",
        ),
        ({"headlines": {"multi-label": ()}}, r"PROTOCOL.headlines\['multi-label'\]: expected at least one name"),
        ({"view_roles": ("training",)}, "PROTOCOL.view_roles: 'training' is none of the roles"),
        ({"named_by_truth": "database"}, "PROTOCOL.named_by_truth: 'database' is none of the roles"),
        ({"metrics_of_truth": lambda params, truth: []}, "PROTOCOL.metrics_of_truth: there is no ground truth"),
        ({"params": WithDefault}, "PROTOCOL.params: k has a default"),
        ({"params": Params(k=1)}, "PROTOCOL.params: expected a subclass of"),
        ({"run": metric_names}, "PROTOCOL.run: expected a function of 3 arguments"),
        ({"metric_names": ["top1"]}, "PROTOCOL.metric_names: expected a function"),
        ({"scale": 0}, "PROTOCOL.scale: expected a whole number from 1, got 0"),
    ],
)
def test_a_description_that_contradicts_itself(change: dict[str, object], message: str) -> None:
    Protocol(**GOOD)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        Protocol(**{**GOOD, **change})  # type: ignore[arg-type]


def test_every_module_has_one_description_and_imports_no_other_protocol() -> None:
    names = protocols.names()
    assert {"knn", "linear", "spectrum"} <= set(names)
    assert not {"base", "shared"} & set(names)
    for name in names:
        assert isinstance(protocols.load(name), Protocol)
        path = Path(protocols.__path__[0]) / f"{name}.py"
        imported = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        assert not {f"massl_bench.protocols.{other}" for other in names} & imported, name


def test_neighbours_that_are_not_there_are_dropped_and_said() -> None:
    rng = np.random.default_rng(0)
    train, test = ((rng.standard_normal((count, 4)), np.arange(count) % 3) for count in (60, 9))
    scores = mb.evaluate("knn", train=train, test=test)
    assert set(scores) == {f"{metric}@{k}" for k in (10, 20) for metric in ("top1", "top5", "mean_per_class")}
    assert scores.notes[0] == "k = 100, 200 dropped, too large for train 60, test 9"
    few = tuple(each[:12] for each in train)
    assert mb.evaluate("knn", train=few, test=test).headline_name == "top1@10"
    with pytest.raises(mb.RequestError, match=r"k = 200 asked, .* has 5 images; allowed up to 5: k=5, headline="):
        mb.evaluate("knn", train=tuple(each[:5] for each in train), test=test)
