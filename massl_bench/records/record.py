"""The result record: everything that is needed to stand behind one number, in one JSON file for each cell."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from massl_bench.core.files import (
    SEAL,
    distinct_file_name,
    escaped_json,
    file_safe,
    sealed,
    sha256_of,
    write_atomic,
)
from massl_bench.core.fingerprint import EncoderFingerprint
from massl_bench.core.model_settings import ModelSettings
from massl_bench.core.settings import Precision, PrecisionAgreement, Preprocessing
from massl_bench.core.strict import Listed, StrictModel
from massl_bench.core.values import Score

SCHEMA_VERSION: Literal[2] = 2


class ModelIdentity(StrictModel):
    """Which weights, under which architecture."""

    name: str
    architecture: str
    pooling: str
    embed_dim: int
    weights_sha256: str
    """Of the tensors that were loaded, by name; of the file in records of the first schema."""
    weights_hash_of: Literal["file", "tensors", "nothing", "features"]
    network: dict[str, int | float | str | bool] = Field(default_factory=dict)
    """What shapes do not tell of the network, for people: heads, patch, eps, activation, …"""
    network_sha256: str | None = None
    """Of every number of the network as it was built; None for features, and in records of the first schema."""


class TaskIdentity(StrictModel):
    """Which protocol, with which numbers."""

    name: str
    version: int
    spec_sha256: str
    protocol: str
    params: dict[str, Any]
    headline: str
    seed: int


class DatasetIdentity(StrictModel):
    """Which data: content, and which part of it."""

    name: str
    fingerprint: str
    limit: dict[str, int]
    """The first items only, by split; empty for whole splits."""
    skipped: dict[str, list[str]]
    """Items left out as corrupt, by split."""


class Identity(StrictModel):
    """What must be the same for two records to be of the same measurement."""

    model: ModelIdentity
    task: TaskIdentity
    dataset: DatasetIdentity
    preprocessing: Preprocessing | None
    """None for features that were handed in."""
    precision: Precision | Literal["unknown"]
    feature_keys: dict[str, str]
    """Content key of the bank of each split."""

    @property
    def in_lower_precision(self) -> bool:
        """Whether the features are not those of fp32, the reference."""
        return self.precision not in ("fp32", "unknown")

    @property
    def digest(self) -> str:
        """Hex sha256 of the identity; what the model is called, and where a folder lies, is no part of it."""
        content = self.model_dump(mode="json", exclude={"model": {"name"}})
        if self.dataset.name.startswith(("folder:", "wds:")):  # its content is in the fingerprint
            del content["dataset"]["name"]
        return sha256_of(content)


class Metric(StrictModel):
    """A score, as a file holds it."""

    value: float = Field(allow_inf_nan=False)
    ci95: Listed[tuple[float, float]] | None = None
    std: float | None = None
    per_seed: Listed[tuple[float, ...]] | None = None
    details: dict[str, float | int | str] = Field(default_factory=dict)


def as_metric(score: Score) -> Metric:
    """Returns a score as a file holds it: without its items, which have a file of their own."""
    return Metric(
        value=score.value, ci95=score.ci95, std=score.std, per_seed=score.per_seed, details=dict(score.details)
    )


class ItemsFile(StrictModel):
    """The file beside a record that holds what each test item got."""

    file: str = Field(pattern=r"^[^/\\\\]+$")
    sha256: str
    num_items: int


class Timings(StrictModel):
    """Seconds."""

    setup: float
    """Imports, device probing, opening the model."""
    data: float
    """Finding, fingerprinting and checking the dataset."""
    extract: float
    """Features, or reading them from the cache."""
    protocol: float
    """From features in memory to scores, intervals included."""
    total: float


class Environment(StrictModel):
    """Where it ran. Two runs of one identity may differ in all of it."""

    python: str
    platform: str
    device: str
    packages: dict[str, str]
    git_commit: str | None
    search_backend: str | None = None
    """Where neighbours were searched: the sets that are found are the same everywhere."""
    threads: int | None = None


class RequestedOptions(StrictModel):
    """What the user said of how model and data are read, beyond their names: `verify` has to ask the same again."""

    model: ModelSettings = ModelSettings()
    image_column: str | None = None
    label_column: str | None = None
    splits: dict[str, str] = Field(default_factory=dict)
    """Source names by role."""
    config: str | None = None
    split_share: float | None = None
    sample: dict[str, int] = Field(default_factory=dict)
    sample_seed: int = 0
    without_duplicates: str | None = None
    """The JSON of an overlap, whose test items a departing record leaves out."""
    max_pixels: int | None = None


class LeftOutItems(StrictModel):
    """What lay in the dataset's place, looked like data, and was not taken."""

    count: int
    first: Listed[tuple[str, ...]]
    """Some names."""


class TrainedHead(StrictModel):
    """What a test set's head was trained on, where that is another dataset."""

    dataset: str
    fingerprint: str
    num_items: dict[str, int]
    """By split, under limits and samples."""
    selected: dict[str, float | int | str] = Field(default_factory=dict)
    """The hyper-parameters that were chosen there."""


class ModelFacts(StrictModel):
    """What tables sort and filter models by; known of some models only, and no part of what is measured."""

    method: str | None = None
    epochs: int | None = None
    num_parameters: int | None = None


class ResultRecord(StrictModel):
    """One cell: one model, one task, one dataset."""

    schema_version: Literal[2]
    identity: Identity
    identity_sha256: str
    departures: list[str]
    """How the run departs from its task (`--set`, `--limit`, …); a run that departs enters no leaderboard."""
    notes: list[str] = Field(default_factory=list)
    """What was assumed, left out or chosen in a way that a reader should know; no part of the identity."""
    complete: bool
    """Whether all items of all splits were measured."""
    metrics: dict[str, Metric]
    headline_scale: int = 100
    """What people see is a value times this: fractions in percent, ranks and exponents as they are."""
    curves: dict[str, dict[str, float]]
    """For a metric with a parameter (`top1@k`): its value by the parameter."""
    selection_split: str | None
    """Where hyper-parameters were selected; None where nothing was."""
    selection_curve: dict[str, float] = Field(default_factory=dict)
    """What each strength C, or learning rate, reached there, as a fraction; empty in older records."""
    precision_agreement: dict[str, PrecisionAgreement] = Field(default_factory=dict)
    """In a lower precision than fp32: how far each split's features agree with it; empty where the task says no bar."""
    num_items: dict[str, int]
    num_extracted: int | None = None
    """Images that went through the model in this run, in `timings.extract` seconds; None in older records."""
    extracted_along: list[str] = Field(default_factory=list)
    """Tasks for which other features were made of the same images, within the same seconds."""
    num_classes: int | None
    model_reference: str
    ground_truth_file: str | None = None
    """What `--ground-truth` gave beside features of database and queries."""
    request: RequestedOptions = RequestedOptions()
    """Empty, as `model_facts`, in records from before there was this key."""
    items: ItemsFile | None = None
    """What each test item got; None where no metric is a mean over items, and in older records."""
    model_facts: ModelFacts = ModelFacts()
    fingerprint: EncoderFingerprint | None = None
    """What the encoder makes of three fixed images; None for handed features, where nobody computed it, and before."""
    model_licence: str
    weights_origin: str
    preprocessing_origin: str
    dataset_layout: str
    dataset_revision: str | None
    head: TrainedHead | None = None
    """Of a test set for a head that is trained on another dataset; None for others."""
    left_out: LeftOutItems | None = None
    generated_copies: Mapping[str, Any] | None = None
    """For copies that the suite made itself: every number behind them, and the libraries that made them."""
    environment: Environment
    timings: Timings
    peak_memory_mb: dict[str, float]
    """Of this process: `host`, and `device` where one was used."""
    argv: list[str]
    created_at: str
    content_sha256: str | None = None
    """Of everything else in the file; None in records of the first schema, which nobody can check."""

    @property
    def headline(self) -> Metric:
        """The task's headline metric."""
        return self.metrics[self.identity.task.headline]


def record_path(results_dir: Path, identity: Identity, departures: list[str]) -> Path:
    """Returns `<results_dir>/<model>/<task>/<dataset>.json`, with `@<8 hex of the identity>` for a departing run,
    and `@<precision>` for one in a lower precision.

    A name that no file can have, or that another name would become too, has `~<8 hex of the name>` behind it.
    """
    return _record_path(results_dir, identity, departures, distinct_file_name)


def old_record_path(results_dir: Path, identity: Identity, departures: list[str]) -> Path:
    """Returns where a record was written while different names could become one path."""
    return _record_path(results_dir, identity, departures, file_safe)


def _record_path(results_dir: Path, identity: Identity, departures: list[str], file_name: Callable[[str], str]) -> Path:
    lower = f"@{identity.precision}" if identity.in_lower_precision else ""
    suffix = f"@{identity.digest[:8]}" if departures else lower
    folder = results_dir / file_name(identity.model.name) / file_name(identity.task.name)
    return folder / f"{file_name(identity.dataset.name)}{suffix}.json"


def curves(metrics: Mapping[str, Score | Metric]) -> dict[str, dict[str, float]]:
    """Returns the values of `name@parameter` metrics, grouped by name."""
    grouped: dict[str, dict[str, float]] = {}
    for name, score in metrics.items():
        metric, at, parameter = name.partition("@")
        if at:
            grouped.setdefault(metric, {})[parameter] = score.value
    return grouped


def write_record(path: Path, record: ResultRecord) -> ResultRecord:
    """Writes a record with sorted keys and with the hash of its content, atomically; returns it with that hash."""
    content = sealed(record.model_dump(mode="json", exclude={SEAL}))
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_atomic(path, escaped_json(text) + "\n")
    return record.model_copy(update={SEAL: content[SEAL]})


def json_schema() -> dict[str, Any]:
    """Returns the JSON Schema of a record."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ResultRecord.model_json_schema()}
