"""What a cell of the page opens: everything that its record says, as plain values that the page's script reads."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from massl_bench.core.printable import printable
from massl_bench.records.record import Metric, ResultRecord
from massl_bench.records.rows import Row


class Details:
    """The records of a page, each once; what many share (parameters, machines) is kept once and named by number.

    Args:
        href: what stands before a record's path in a link to its file; None where records cannot be linked to.
    """

    def __init__(self, href: str | None) -> None:
        self._href = href
        self._numbers: dict[str, int] = {}
        self._shared: dict[str, int] = {}
        self._records: list[str] = []

    def number(self, row: Row) -> int:
        """Returns the number of a row's record, which is added where it is new."""
        path = row.path.as_posix()
        if path not in self._numbers:
            self._numbers[path] = len(self._records)
            self._records.append(json_text(self._record(path, row.record)))
        return self._numbers[path]

    def json(self) -> dict[str, str]:
        """Returns the JSON of the two lists by name."""
        return {"shared": f"[{','.join(self._shared)}]", "records": f"[{','.join(self._records)}]"}

    def _share(self, value: Any) -> int:
        return self._shared.setdefault(json_text(value), len(self._shared))

    def _record(self, path: str, record: ResultRecord) -> dict[str, Any]:
        identity = record.identity
        model, task, data = identity.model, identity.task, identity.dataset
        preprocessing = identity.preprocessing
        return {
            "model": model.name,
            "task": f"{task.name}, version {task.version}",
            "dataset": data.name,
            "headline": task.headline,
            "scale": record.headline_scale,
            "metrics": {name: _metric(metric) for name, metric in record.metrics.items()},
            "parameters": self._share({**task.params, "seed": task.seed}),
            "weights": self._share(
                {
                    "reference": record.model_reference,
                    "architecture": model.architecture,
                    "feature": f"{model.pooling}, {model.embed_dim} numbers",
                    "parameters": record.model_facts.num_parameters,
                    "weights": record.weights_origin,
                    f"sha256 of the {model.weights_hash_of}": model.weights_sha256,
                    "licence": record.model_licence,
                    "preprocessing": preprocessing.describe() if preprocessing is not None else "unknown",
                    "preprocessing from": record.preprocessing_origin,
                    "precision": identity.precision,
                }
            ),
            "data": self._share(
                {
                    "fingerprint": data.fingerprint,
                    "layout": record.dataset_layout,
                    "revision": record.dataset_revision,
                    "classes": record.num_classes,
                    **{f"items, {role}": count for role, count in record.num_items.items()},
                }
            ),
            "selected on": record.selection_split,
            "environment": self._share(
                {
                    "device": record.environment.device,
                    "platform": record.environment.platform,
                    "python": record.environment.python,
                    **record.environment.packages,
                    "commit": record.environment.git_commit,
                    "search": identity.backend,
                }
            ),
            "seconds": {k: round(v, 2) for k, v in record.timings.model_dump().items()},
            "memory": record.peak_memory_mb,
            "created": record.created_at,
            "command": command(record),
            "path": path,
            "href": None if self._href is None or path.startswith("packaged/") else quote(self._href + path),
        }


def _metric(metric: Metric) -> list[Any]:
    """Returns [value, low, high, deviation, draws, details], cut behind what there is.

    Without the digits that nobody reads: a page holds many thousands of numbers, and links to the records.
    """
    low, high = (round(end, 5) for end in metric.ci95) if metric.ci95 is not None else (None, None)
    parts = [round(metric.value, 5), low, high]
    if metric.std is not None or metric.per_seed is not None or metric.details:
        draws = [round(value, 5) for value in metric.per_seed] if metric.per_seed is not None else None
        parts += [metric.std and round(metric.std, 5), draws, metric.details or None]  # type: ignore[list-item]
    while parts[-1] is None:
        parts.pop()
    return parts


def command(record: ResultRecord) -> str | None:
    """Returns the command that measures a record's cell again; None where a name holds what no terminal should see."""
    identity, asked = record.identity, record.request
    words = ["massl-bench", "run", "--task", identity.task.name]
    if identity.model.weights_hash_of == "features":
        words += ["--features", record.model_reference, "--name", identity.model.name]
        if record.ground_truth_file is not None:
            words += ["--ground-truth", record.ground_truth_file]
    else:
        words += ["--dataset", identity.dataset.name, "--model", record.model_reference]
    options: Mapping[str, str | None] = {
        "--arch": asked.arch,
        "--image-column": asked.image_column,
        "--label-column": asked.label_column,
        "--split": ",".join(f"{role}={source}" for role, source in asked.splits.items()) or None,
    }
    for option, value in options.items():
        words += [option, value] if value is not None else []
    return shlex.join(words) if all(word.isprintable() for word in words) else None


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
