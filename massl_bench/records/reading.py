"""Records read from their files: checked whole, whatever lies there, and quickly, for tables read thousands."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from massl_bench.core.directories import check_directory
from massl_bench.core.errors import RequestError, one_line, shown
from massl_bench.core.files import SEAL, parse_json, read_regular, sha256_of
from massl_bench.core.settings import Preprocessing
from massl_bench.core.strict import StrictModel, first_problem
from massl_bench.records.record import (
    SCHEMA_VERSION,
    DatasetIdentity,
    Environment,
    Identity,
    ModelFacts,
    ModelIdentity,
    RequestedOptions,
    ResultRecord,
    TaskIdentity,
    curves,
)
from massl_bench.records.spelling import Spelling, json_as_sorted
from massl_bench.specs.registry import packaged_root


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
    if (record := _as_written(content)) is not None:
        return record
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


def _as_written(content: Any) -> ResultRecord | None:
    """Returns a whole record of a file with sorted keys, as `write_record` writes them; None of any other."""
    try:
        spelling = Spelling(content, _SHARED, _SHARED_OF_IDENTITY, json_as_sorted)
        record = ResultRecord.model_validate(spelling.with_shared())
        is_whole = spelling.content_digest == record.content_sha256
        stated = record.identity_sha256
        # The text's hash first, which is quick; the name of a folder is no part of its record's identity.
        is_named = spelling.identity_digest == stated
        is_own = is_named or record.identity.digest == stated
    except (ValueError, TypeError, AttributeError, KeyError):  # said of the whole, by who asks
        return None
    return record if is_whole and is_own and record.identity.task.headline in record.metrics else None


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
    return [directory / name for name in record_names(directory)]


def record_names(directory: Path) -> list[str]:
    """Returns `<model>/<task>/<file>.json` of every record below a results directory, sorted by its parts."""
    # As directory.glob, which takes a fifth of the time of a table of thousands.
    found = [
        (model.name, task.name, file.name)
        for model in _entries(directory)
        for task in _entries(model.path)
        for file in _entries(task.path)
        if file.name.endswith(".json")
    ]
    return ["/".join(parts) for parts in sorted(found)]


def _entries(directory: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError:  # a file, or a folder that nobody may read
        return []


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
