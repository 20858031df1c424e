"""Records of models that nobody trained: the bundled ones, with other names, weights and values."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from massl_bench.records.reading import read_record
from massl_bench.records.record import Identity, ResultRecord
from massl_bench.records.rows import Leaderboard, Row
from massl_bench.specs.registry import Registry
from tests.made_records import write_sealed

ROOT = Path(__file__).parents[2]
_TEMPLATES = {
    path.parent.name: read_record(path).model_dump(mode="json")
    for path in sorted((ROOT / "results" / "massl-small-cifar10").glob("*/cifar10.json"))
}
_task = cache(Registry().task)
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "x" * 10_000,
    "שלום \u202egnirts",
    '=HYPERLINK("http://x")',
    r"$\textbf{a}_1 % & # ~ ^",
    "\x1b[31mred\x1b[0m\nsecond line",
    "</script><script>alert(2)</script>",
    "'; rm -rf ~; echo '",
    "</noscript></table><img src=x onerror=alert(3)>",
    '</tbody>\n<tr data-model="0"><td>',
)


def record(name: str, task: str, dataset: str, value: float, half: float = 0.01, **changes: Any) -> dict[str, Any]:
    """The content of a record of a made-up model: every metric has the value, and an interval of half the width."""
    content = copy.deepcopy(_TEMPLATES[task])
    spec = _task(task)
    identity = content["identity"]
    identity["model"].update(name=name, weights_sha256=hashlib.sha256(name.encode()).hexdigest())
    identity["dataset"].update(name=dataset, fingerprint=hashlib.sha256(dataset.encode()).hexdigest())
    identity["task"].update(version=spec.version, spec_sha256=spec.spec_hash)
    for metric in content["metrics"].values():
        metric["value"] = value
        metric["ci95"] = [value - half, value + half] if metric["ci95"] is not None else None
    for curve in content["curves"].values():
        curve.update(dict.fromkeys(curve, value))
    content.update(model_reference=name, **changes)
    content.pop("content_sha256", None)
    content["identity_sha256"] = Identity.model_validate(identity).digest
    return content


def write(folder: Path, contents: Sequence[Mapping[str, Any]]) -> Path:
    """Writes records as `results/…/….json` would lie, each model in a folder of its own; returns the results."""
    names: dict[str, str] = {}
    for content in contents:
        identity = content["identity"]
        model = names.setdefault(identity["model"]["name"], f"m{len(names):03d}")
        path = folder / model / identity["task"]["name"] / f"{identity['dataset']['name']}.json"
        write_sealed(path, dict(content))
    return folder


def many(folder: Path, models: Sequence[str], cells: Sequence[tuple[str, str]]) -> Path:
    """Writes a record of every model on every cell, with values of chance."""
    return write(folder, contents(models, cells))


def board(models: Sequence[str], cells: Sequence[tuple[str, str]]) -> Leaderboard:
    """A leaderboard of the same records, which lie nowhere."""
    rows = []
    for number, content in enumerate(contents(models, cells)):
        found = ResultRecord.model_validate(content)
        path = Path(f"m{number // len(cells):03d}") / found.identity.task.name / f"{found.identity.dataset.name}.json"
        rows.append(Row(path=path, record=found, metric=found.identity.task.headline))
    return Leaderboard(cells=list(cells), rows=rows, apart=[])


def contents(models: Sequence[str], cells: Sequence[tuple[str, str]], seed: int = 0) -> list[dict[str, Any]]:
    """The contents of a record of every model on every cell."""
    rng = np.random.default_rng(seed)
    level_M1, noise_MC = rng.standard_normal((len(models), 1)), rng.standard_normal((len(models), len(cells)))
    value_MC = np.clip(0.7 + 0.1 * level_M1 + 0.02 * noise_MC, 0.05, 0.95).round(4)
    found = []
    for number, (model, row) in enumerate(zip(models, value_MC.tolist(), strict=True)):
        facts = {
            "method": ("massl", "carp", "dino")[number % 3],
            "epochs": 100 * (1 + number % 4),
            "num_parameters": 1_000_000 * (1 + number),
        }
        for (task, dataset), value in zip(cells, row, strict=True):
            found.append(record(model, task, dataset, value, model_facts=facts))
    return found
