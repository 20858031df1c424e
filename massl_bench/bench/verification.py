"""A record, computed again from the images (or the handed features) and compared."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from massl_bench.bench.launch import find_launcher
from massl_bench.bench.request import RunRequest
from massl_bench.core.errors import CellError, RequestError, without_addresses
from massl_bench.core.fingerprint import EncoderFingerprint
from massl_bench.datasets import MAX_PIXELS, Columns, DataOptions
from massl_bench.features import ExtractionOptions, Reporting
from massl_bench.features.fingerprint import fingerprint_of
from massl_bench.models import ModelOptions, open_model
from massl_bench.records.record import Metric, ResultRecord
from massl_bench.specs.registry import Registry

_ORDER: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("weights", ("model.weights", "fingerprint.weights")),
    ("preprocessing", ("preprocessing", "fingerprint.preprocessing")),
    ("architecture", ("model.", "fingerprint.network", "fingerprint.embed_dim")),
    ("versions", ("environment.",)),
    ("task", ("task.", "precision", "backend")),
    ("data", ("dataset.",)),
    ("features", ("fingerprint.", "feature_keys")),
)
"""What explains a difference, in the order in which one looks for it: what comes first makes the rest differ too."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of recomputing a record; the first two lists empty: reproduced exactly."""

    identity_differences: tuple[str, ...]
    """`model.weights_sha256: recorded …, found …`, the first explanation first."""
    metric_differences: tuple[str, ...]
    """`top1@20: recorded …, found …`"""
    version_differences: tuple[str, ...] = ()
    """`environment.packages.torch: recorded …, found …`; alone they are no difference."""
    fingerprint_differences: tuple[str, ...] = ()
    """`fingerprint.images.stripes.norm: recorded …, found …`; alone they change no number of the record."""

    @property
    def reproduced(self) -> bool:
        """Whether identity and every metric are the same."""
        return not self.identity_differences and not self.metric_differences

    @property
    def explanations(self) -> tuple[str, ...]:
        """All that can make a number another one, the first to look at first."""
        found = (*self.identity_differences, *self.version_differences, *self.fingerprint_differences)
        return tuple(sorted(found, key=_rank))

    @property
    def first_difference(self) -> str | None:
        """What to look at first: weights, preprocessing, architecture, versions, task, data, features or number."""
        if self.reproduced:
            return None
        found = [_kind(text) for text in self.explanations]
        return found[0] if found else "number"


def verify(
    record: ResultRecord,
    registry: Registry,
    data: DataOptions,
    *,
    device: str = "auto",
    devices: Sequence[str] = (),
    processes: int | None = None,
    use_cached_features: bool = False,
    reporting: Reporting,
) -> Verdict:
    """Runs the record's cell again, in a directory of its own, and compares identity and metrics.

    Args:
        record: what should be reproduced.
        registry: holds the record's task.
        data: where its dataset is; how it is read, the record says.
        device: where encoders run.
        devices: of the processes that share the work; none: all GPUs of the machine, where `device` is `auto`.
        processes: how many of them; None: one for each device.
        use_cached_features: whether features may come from the cache; otherwise the images go through the model again.
        reporting: where messages and progress go.

    Raises:
        RequestError: The model, the dataset or the task is not there, or has changed its meaning.
        CellError: The cell failed.
    """
    fingerprint = _fingerprint_now(record, registry, data, reporting)
    with tempfile.TemporaryDirectory(prefix="massl-bench-verify-") as folder:
        request = replace(
            request_of(record, registry, data),
            device=device,
            devices=devices,
            processes=processes,
            features_dir=None if use_cached_features else Path(folder),
            results_dir=Path(folder) / "results",
        )
        outcomes = list(find_launcher("local").run(request, registry, reporting))
    outcome = outcomes[0]
    if len(outcomes) > 1:  # with and without duplicates
        outcome = next(each for each in outcomes if each.record is None or each.record.identity.dataset.skipped)
    if outcome.record is None:
        raise CellError(outcome.error or "the cell failed")
    return compare(record, outcome.record.model_copy(update={"fingerprint": fingerprint}))


def request_of(record: ResultRecord, registry: Registry, data: DataOptions) -> RunRequest:
    """Returns the request whose cell is that of a record.

    Args:
        record: the record.
        registry: holds its task.
        data: where its dataset is; how it is read, the record says.

    Raises:
        RequestError: The task has another version now.
    """
    identity, asked = record.identity, record.request
    return RunRequest(
        cells=[(identity.task.name, identity.dataset.name)],
        models=[record.model_reference],
        features_file=Path(record.model_reference) if identity.model.weights_hash_of == "features" else None,
        ground_truth=Path(record.ground_truth_file) if record.ground_truth_file is not None else None,
        name=identity.model.name,
        overrides=_overrides(record, registry),
        seed=identity.task.seed,
        without_duplicates=Path(asked.without_duplicates or "") if _leaves_aside(record) else None,
        limit=identity.dataset.limit,
        data=replace(
            data,
            columns=Columns(asked.image_column, asked.label_column),
            splits=asked.splits,
            config=asked.config,
            split_share=asked.split_share,
            sample=asked.sample,
            sample_seed=asked.sample_seed,
            max_pixels=asked.max_pixels or MAX_PIXELS,
        ),
        settings=asked.model,
        extraction=ExtractionOptions(
            precision=identity.precision if identity.precision != "unknown" else "fp32",
            skip_corrupt=bool(identity.dataset.skipped) and not _leaves_aside(record),
        ),
        results_dir=Path("results"),
    )


def _leaves_aside(record: ResultRecord) -> bool:
    """Tells whether the record is the one of its run that leaves duplicates out."""
    return record.request.without_duplicates is not None and bool(record.identity.dataset.skipped)


def _fingerprint_now(
    record: ResultRecord, registry: Registry, data: DataOptions, reporting: Reporting
) -> EncoderFingerprint | None:
    """Returns the fingerprint of the record's model, computed anew and compared: in seconds, before the images.

    None where the record has none.
    """
    if record.fingerprint is None:
        return None
    options = ModelOptions(cache_dir=data.cache_dir, settings=record.request.model, download=not data.offline)
    encoder = open_model(record.model_reference, registry, options).encoder("cpu")
    found = fingerprint_of(encoder)
    different = record.fingerprint.differences(found)
    answer = f"another encoder than the record's: {different[0]}" if different else "the record's encoder"
    reporting.say(f"{record.identity.model.name}: by the fingerprint of its features, {answer}")
    return found


def compare(recorded: ResultRecord, found: ResultRecord) -> Verdict:
    """Returns how two records of the same request differ in identity and metrics, and in the versions behind them."""
    identity = _differences("", *(record.identity.model_dump(mode="json") for record in (recorded, found)))
    versions = _differences("environment.", *(_versions(record) for record in (recorded, found)))
    metrics = []
    for name in sorted(recorded.metrics.keys() | found.metrics.keys()):
        old, new = recorded.metrics.get(name), found.metrics.get(name)
        if old is None or new is None:
            metrics.append(f"{name}: only in {'the record' if new is None else 'the new run'}")
        elif old != new:
            metrics.append(f"{name}: recorded {old.value:.6f}, found {new.value:.6f}{_beside_the_value(old, new)}")
    old_print, new_print = recorded.fingerprint, found.fingerprint
    return Verdict(
        identity_differences=identity,
        metric_differences=tuple(metrics),
        version_differences=versions,
        fingerprint_differences=old_print.differences(new_print) if old_print and new_print else (),
    )


def _versions(record: ResultRecord) -> dict[str, object]:
    return {"packages": record.environment.packages, "python": record.environment.python}


def _beside_the_value(old: Metric, new: Metric) -> str:
    """Returns in what two metrics differ whose values are shown alike."""
    if f"{old.value:.6f}" != f"{new.value:.6f}":
        return ""
    names = [name for name in Metric.model_fields if getattr(old, name) != getattr(new, name)]
    return f" (differs in {', '.join(names)})"


def _differences(prefix: str, recorded: dict[str, object], found: dict[str, object]) -> tuple[str, ...]:
    """Returns one text for each key that differs, the first explanation first."""
    before, after = _flat(recorded, prefix), _flat(found, prefix)
    names = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    names.sort(key=lambda name: (_rank(name), name))
    return tuple(f"{name}: recorded {before.get(name)}, found {after.get(name)}" for name in names)


def _kind(name: str) -> str:
    return next(kind for kind, prefixes in _ORDER if name.startswith(prefixes))


def _rank(name: str) -> int:
    return [kind for kind, _ in _ORDER].index(_kind(name))


def _overrides(record: ResultRecord, registry: Registry) -> dict[str, dict[str, object]]:
    """Returns the parameters in which the record departs from its task."""
    task = record.identity.task
    current = registry.task(task.name)
    if task.version != current.version:
        raise RequestError(
            f"the record is of version {task.version} of {task.name}, and this is version {current.version}: "
            "install the massl-bench that wrote it (environment.packages)"
        )
    changed: dict[str, object] = {
        name: value for name, value in task.params.items() if value != current.params.get(name)
    }
    if task.headline != current.headline:
        changed["headline"] = task.headline
    return {task.name: changed} if changed else {}


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        return {name: leaf for key, inner in value.items() for name, leaf in _flat(inner, f"{prefix}{key}.").items()}
    if isinstance(value, list):  # items left out, each with its reason
        value = [without_addresses(part) if isinstance(part, str) else part for part in value]
    return {prefix.rstrip("."): value}
