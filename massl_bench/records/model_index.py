"""Records of a model as the results that a model card on the hub holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from massl_bench.core.files import sha256_of
from massl_bench.core.settings import Preprocessing
from massl_bench.records.record import ResultRecord
from massl_bench.specs.registry import Registry

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


def eval_results(
    records: Iterable[ResultRecord],
    registry: Registry,
    *,
    weights_sha256: str,
    network_sha256: str,
    pooling: str,
    preprocessing: Preprocessing,
) -> list[EvalResult]:
    """Returns the headline of each record of a model, as people see it, with its interval and the record's identity.

    Args:
        records: complete, and of the tasks' current versions; of each task and dataset the latest is taken.
        registry: knows where datasets are on the hub.
        weights_sha256: of the model's tensors.
        network_sha256: of its other numbers.
        pooling: what becomes its feature, where a task does not say that.
        preprocessing: its own; records of the same weights under another one are of another model.
    """
    from huggingface_hub import EvalResult

    fed = sha256_of(preprocessing.model_dump(mode="json"))[:12]
    latest: dict[tuple[str, str], ResultRecord] = {}
    for record in sorted(records, key=lambda each: each.created_at):
        model = record.identity.model
        if record.identity.in_lower_precision:
            continue  # the hub has one value of a metric
        same = (model.weights_sha256, model.network_sha256) == (weights_sha256, network_sha256)
        own = model.pooling == pooling or registry.task(record.identity.task.name).pooling is not None
        if same and own and _is_fed_so(record, preprocessing, fed):
            latest[record.identity.task.name, record.identity.dataset.name] = record
    results = []
    for _, record in sorted(latest.items()):
        identity = record.identity
        metric, scale = record.headline, record.headline_scale
        spec = registry.dataset(identity.dataset.name) if identity.dataset.name in registry.datasets else None
        # The hub joins results that differ in their task's name alone: the metric says which it is.
        args = {"task": identity.task.name, "version": identity.task.version, "record": record.identity_sha256}
        if metric.ci95 is not None:
            args["ci95"] = " to ".join(f"{scale * bound:.2f}" for bound in metric.ci95)
        results.append(
            EvalResult(
                task_type="image-feature-extraction",
                dataset_type=spec.hub.repo if spec is not None and spec.hub is not None else identity.dataset.name,
                dataset_name=identity.dataset.name,
                dataset_split="test",
                metric_type=identity.task.headline,
                metric_name=f"{identity.task.name} {identity.task.headline}",
                metric_value=round(scale * metric.value, 4),
                metric_args=args,
            )
        )
    return results


def _is_fed_so(record: ResultRecord, preprocessing: Preprocessing, fed: str) -> bool:
    """Tells whether a record's model had this preprocessing; a task may have changed it for its own cell."""
    if record.fingerprint is not None:
        return record.fingerprint.preprocessing == fed
    return record.identity.preprocessing == preprocessing
