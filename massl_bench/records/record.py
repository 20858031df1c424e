"""The result record: everything that is needed to stand behind one number, in one JSON file for each cell."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_core import from_json

from massl_bench.core.directories import check_directory
from massl_bench.core.errors import RequestError, one_line, shown
from massl_bench.core.files import (
    SEAL,
    distinct_file_name,
    escaped_json,
    file_safe,
    parse_json,
    read_regular,
    sealed,
    sha256_of,
    write_atomic,
)
from massl_bench.core.fingerprint import EncoderFingerprint
from massl_bench.core.model_settings import ModelSettings
from massl_bench.core.settings import Precision, Preprocessing
from massl_bench.core.strict import Listed, StrictModel, first_problem
from massl_bench.core.values import Score
from massl_bench.records.spelling import Spelling
from massl_bench.specs.registry import packaged_root

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
    num_items: dict[str, int]
    num_extracted: int | None = None
    """Images that went through the model in this run, in `timings.extract` seconds; None in older records."""
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
    """Returns `<results_dir>/<model>/<task>/<dataset>.json`, with `@<8 hex of the identity>` for a departing run.

    A name that no file can have, or that another name would become too, has `~<8 hex of the name>` behind it.
    """
    return _record_path(results_dir, identity, departures, distinct_file_name)


def old_record_path(results_dir: Path, identity: Identity, departures: list[str]) -> Path:
    """Returns where a record was written while different names could become one path."""
    return _record_path(results_dir, identity, departures, file_safe)


def _record_path(results_dir: Path, identity: Identity, departures: list[str], file_name: Callable[[str], str]) -> Path:
    suffix = f"@{identity.digest[:8]}" if departures else ""
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


def read_record(path: Path) -> ResultRecord:
    """Reads and validates a record.

    Raises:
        RequestError: Not a record of a known schema version, or changed since it was written: the text names file and
            key.
    """
    try:
        content = _parsed(read_regular(path))
    except OSError as error:
        raise RequestError(f"{path}: not a result record: {error.strerror or one_line(error)}") from None
    except ValueError as error:
        raise RequestError(f"{path}: not a result record: {one_line(error)}") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version not in (1, SCHEMA_VERSION):
        raise RequestError(f"{path}: schema_version: expected 1 or {SCHEMA_VERSION}, got {shown(version)}")
    try:
        record, spelling = _checked(content, version)
    except ValidationError as error:
        raise RequestError(f"{path}: {first_problem(error)}") from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise RequestError(f"{path}: not a result record: {one_line(error)}") from None
    # The text's own hash first: it says the same of most records, and tables read thousands.
    same = version == SCHEMA_VERSION and spelling.identity_digest == record.identity_sha256
    if not same and record.identity.digest != record.identity_sha256:
        raise RequestError(f"{path}: identity_sha256: does not match the identity: the record was changed by hand")
    if record.identity.task.headline not in record.metrics:
        raise RequestError(f"{path}: metrics: the headline {record.identity.task.headline!r} is missing")
    if version == SCHEMA_VERSION or record.content_sha256 is not None:
        if spelling.content_digest != record.content_sha256:
            why = "is missing" if record.content_sha256 is None else "does not match the content"
            raise RequestError(f"{path}: {SEAL}: {why}: the record was damaged, or changed by hand")
    elif record.curves != curves(record.metrics):
        raise RequestError(f"{path}: curves: other values than metrics: the record was damaged, or changed by hand")
    return record


def _parsed(text: bytes) -> Any:
    """Returns what a JSON text holds, as `parse_json`, in a third of the time: tables read thousands of records."""
    try:
        return from_json(text, allow_inf_nan=False)  # which ends at 200 levels
    except ValueError:  # a lone surrogate, for one, which JSON may hold, or what is said of it
        return parse_json(text)


_SHARED_OF_IDENTITY: Mapping[str, type[StrictModel]] = {
    "model": ModelIdentity,
    "task": TaskIdentity,
    "dataset": DatasetIdentity,
    "preprocessing": Preprocessing,
}
_SHARED: Mapping[str, type[StrictModel]] = {
    "environment": Environment,
    "request": RequestedOptions,
    "model_facts": ModelFacts,
}


def _checked(content: dict[str, Any], version: int) -> tuple[ResultRecord, Spelling]:
    """Returns a record and how its file spells it; raises `ValidationError`, or as `Spelling` does."""
    if version == SCHEMA_VERSION:
        with suppress(ValueError, TypeError, AttributeError, KeyError):  # said below, of the whole
            spelling = Spelling(content, _SHARED, _SHARED_OF_IDENTITY)
            return ResultRecord.model_validate(spelling.with_shared()), spelling
    record = ResultRecord.model_validate(_from_first(content) if version == 1 else content)
    return record, Spelling(content, {}, {})


def _from_first(content: dict[str, Any]) -> dict[str, Any]:
    """Returns a record of the first schema as one of this: where neighbours were searched was in its identity.

    Its identity stays another one than that of the same measurement today: it says of which file the weights are, not
    which tensors were loaded, nor under which network.
    """
    parts = {name: content.get(name) for name in ("identity", "request", "environment")}
    identity, asked, environment = (dict(part) if isinstance(part, dict) else {} for part in parts.values())
    intact = content.get("identity_sha256") == sha256_of(identity)
    environment["search_backend"] = identity.pop("backend", None)
    if "arch" in asked:
        asked["model"] = {"arch": asked.pop("arch")}
    moved = {**content, "schema_version": SCHEMA_VERSION, "identity": identity, "environment": environment}
    if asked:
        moved["request"] = asked
    if intact:
        moved["identity_sha256"] = Identity.model_validate(identity).digest
    return moved


def find_records(directory: Path) -> list[Path]:
    """Returns every record file below a results directory, sorted."""
    return sorted(directory.glob("*/*/*.json"))


def check_results_dir(directory: Path, field: str = "results_dir") -> None:
    """Raises `RequestError`, naming the setting, for an address, and where a file stands in the way."""
    check_directory(directory, field)
    there = next((path for path in (directory, *directory.parents) if path.exists()), None)
    if there is not None and not there.is_dir():
        text = f"expected a directory, found the file {there}"
        raise RequestError(text, field=field, found=directory, allowed="a directory")


def results_dirs(own: Path) -> list[Path]:
    """Returns the directories that records are read from: the user's, then the packaged one."""
    packaged = packaged_root() / "results"
    return [own] if own.resolve() == packaged.resolve() else [own, packaged]


def json_schema() -> dict[str, Any]:
    """Returns the JSON Schema of a record."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ResultRecord.model_json_schema()}
