"""What a cell of the page opens: everything that its record says, as plain values that the page's script reads."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from massl_bench.core.printable import printable
from massl_bench.core.wording import option
from massl_bench.records.outcomes import OutcomesOf
from massl_bench.records.record import Metric, ResultRecord
from massl_bench.records.rows import Row

FIELDS = (
    "model", "task", "data", "machine", "metrics", "selected on", "selection", "seconds", "memory", "measured",
    "command", "path", "classes",
)  # fmt: skip
"""What a record's list holds, in order; the first four are numbers of entries of the shared list."""
DIGITS = 100_000
"""Values are kept as whole numbers of 1 / DIGITS: a page holds many thousands of them, and links to the records."""


class Details:
    """The records of a page, each once; what many share (models, parameters, machines) is kept once, by number."""

    def __init__(self, outcomes: OutcomesOf) -> None:
        self._outcomes = outcomes
        self._numbers: dict[Path, int] = {}
        self._shared: dict[str, int] = {}
        self._known: dict[tuple[object, ...], int] = {}
        self._settings: dict[tuple[int, str], list[str]] = {}
        self._records: list[str] = []

    def number(self, row: Row) -> int:
        """Returns the number of a row's record, which is added where it is new."""
        if row.path not in self._numbers:
            self._numbers[row.path] = len(self._records)
            self._records.append(json_text(self._record(row)))
        return self._numbers[row.path]

    def json(self) -> dict[str, str]:
        """Returns the JSON of the lists by name."""
        return {
            "fields": json_text(FIELDS),
            "shared": f"[{','.join(self._shared)}]",
            "records": f"[{','.join(self._records)}]",
        }

    def _share(self, whose: tuple[object, ...], value: Callable[[], Any]) -> int:
        """Returns the number of a value that many records share; it is made once for all that are alike."""
        if whose not in self._known:
            self._known[whose] = self._shared.setdefault(json_text(value()), len(self._shared))
        return self._known[whose]

    def _record(self, row: Row) -> list[Any]:
        record, outcomes = row.record, self._outcomes.of(row)
        identity = record.identity
        # Equal parts of records are mostly one object (`records.spelling`): its id says the same, and is there at once.
        model = (
            id(identity.model), id(record.model_facts), id(identity.preprocessing), identity.precision,
            record.model_reference, record.weights_origin, record.model_licence, record.preprocessing_origin,
        )  # fmt: skip
        task = (id(identity.task), record.headline_scale, *record.metrics)
        data = (
            id(identity.dataset), record.dataset_layout, record.dataset_revision, record.num_classes,
            *record.num_items.items(),
        )  # fmt: skip
        return [
            self._share(("model", *model), lambda: _model(record)),
            self._share(("task", *task), lambda: _task(record)),
            self._share(("data", *data), lambda: _data(record)),
            self._share(("machine", id(record.environment)), lambda: _machine(record)),
            [_metric(metric) for metric in record.metrics.values()],
            record.selection_split,
            {strength: round(value, 5) for strength, value in record.selection_curve.items()} or None,
            [round(seconds, 2) for seconds in vars(record.timings).values()],
            record.peak_memory_mb,
            record.created_at,
            self._command(record),
            row.path.as_posix(),
            _classes(row.metric, outcomes.classes) if outcomes is not None else None,
        ]

    def _command(self, record: ResultRecord) -> str | None:
        whose = id(record.request), record.identity.precision
        if whose not in self._settings:
            self._settings[whose] = _settings(record)
        return command(record, self._settings[whose])


def _machine(record: ResultRecord) -> dict[str, Any]:
    found = record.environment
    return {
        "device": found.device,
        "platform": found.platform,
        "python": found.python,
        **found.packages,
        "commit": found.git_commit,
        "search": found.search_backend,
        **({} if found.threads is None else {"threads": found.threads}),
    }


def _classes(metric: str, classes: Sequence[tuple[str, float, int]]) -> dict[str, Any] | None:
    """Returns the classes of a record, the worst first; of many the ten worst and the ten best."""
    if not classes:
        return None
    ordered = sorted(classes, key=lambda found: (found[1], found[0]))
    listed = [(name, round(part * DIGITS), count) for name, part, count in ordered]
    return {
        "metric": metric,
        "all": len(listed),
        "listed": listed if len(listed) <= 20 else [*listed[:10], *listed[-10:]],
    }


def _model(record: ResultRecord) -> dict[str, Any]:
    model, preprocessing = record.identity.model, record.identity.preprocessing
    return {
        "name": model.name,
        "reference": record.model_reference,
        "architecture": model.architecture,
        "feature": f"{model.pooling}, {model.embed_dim} numbers",
        "method": record.model_facts.method,
        "epochs": record.model_facts.epochs,
        "parameters": record.model_facts.num_parameters,
        "weights": record.weights_origin,
        f"sha256 of the {model.weights_hash_of}": model.weights_sha256,
        "licence": record.model_licence,
        "preprocessing": preprocessing.describe() if preprocessing is not None else "unknown",
        "preprocessing from": record.preprocessing_origin,
        "precision": record.identity.precision,
    }


def _task(record: ResultRecord) -> dict[str, Any]:
    task = record.identity.task
    return {
        "name": task.name,
        "version": task.version,
        "headline": task.headline,
        "scale": record.headline_scale,
        "metrics": list(record.metrics),
        "parameters": {**task.params, "seed": task.seed},
    }


def _data(record: ResultRecord) -> dict[str, Any]:
    data = record.identity.dataset
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "layout": record.dataset_layout,
        "revision": record.dataset_revision,
        "classes": record.num_classes,
        **{f"items, {role}": count for role, count in record.num_items.items()},
    }


def _metric(metric: Metric) -> list[Any]:
    """Returns [value, low, high, deviation, draws, details] in units of 1 / DIGITS, cut behind what there is."""
    low, high = (round(end * DIGITS) for end in metric.ci95) if metric.ci95 is not None else (None, None)
    parts: list[Any] = [round(metric.value * DIGITS), low, high]
    if metric.std is not None or metric.per_seed is not None or metric.details:
        draws = [round(value * DIGITS) for value in metric.per_seed] if metric.per_seed is not None else None
        parts += [round(metric.std * DIGITS) if metric.std is not None else None, draws, metric.details or None]
    while parts[-1] is None:
        parts.pop()
    return parts


def command(record: ResultRecord, settings: Sequence[str] | None = None) -> str | None:
    """Returns the command that measures a record's cell again; None where a name holds what no terminal should see.

    Args:
        record: the record.
        settings: the words of what was asked beside task, data and model, where they are known.
    """
    identity = record.identity
    words = ["massl-bench", "run", option("task"), identity.task.name]
    given: dict[str, str | None]
    if identity.model.weights_hash_of == "features":
        given = {"features": record.model_reference, "name": identity.model.name}
        given |= {"ground_truth": record.ground_truth_file}
    else:
        given = {"dataset": identity.dataset.name, "model": record.model_reference}
    words += [*_options(given.items()), *(settings if settings is not None else _settings(record))]
    return shlex.join(words) if all(word.isprintable() for word in words) else None


def _settings(record: ResultRecord) -> list[str]:
    asked, precision = record.request, record.identity.precision
    settings: Mapping[str, str | None] = {
        "image_column": asked.image_column,
        "label_column": asked.label_column,
        "splits": _by_role(asked.splits),
        "config": asked.config,
        "split_share": str(asked.split_share) if asked.split_share is not None else None,
        "sample": _by_role(asked.sample | ({"seed": asked.sample_seed} if asked.sample_seed else {})),
        "max_pixels": str(asked.max_pixels) if asked.max_pixels is not None else None,
        "precision": precision if precision not in ("fp32", "unknown") else None,
    }
    return _options([*asked.model.named, *settings.items()])


def _options(values: Iterable[tuple[str, str | None]]) -> list[str]:
    return [word for name, value in values if value is not None for word in (option(name), value)]


def _by_role(values: Mapping[str, object]) -> str | None:
    return ",".join(f"{role}={value}" for role, value in values.items()) or None


def json_text(value: Any) -> str:
    """Returns plain values as JSON in which every text is safe to show, and nothing can end the element around it."""
    text = _dumps(value)
    if "\\" in text or not text.isprintable():  # an escape, or what should be one: rare
        text = _dumps(_shown(value))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): _shown(part) for key, part in value.items()}
    if isinstance(value, Sequence):
        return [_shown(part) for part in value]
    return value
