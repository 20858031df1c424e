"""The record: its path, its schema, and what is refused when it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from massl_bench.core.errors import RequestError
from massl_bench.core.files import file_safe
from massl_bench.core.values import Score
from massl_bench.records.reading import read_record
from massl_bench.records.record import curves, json_schema
from tests.made_records import edit

SCHEMA = Path(__file__).parents[2] / "docs" / "result.schema.json"


def test_the_published_schema_is_current_and_describes_a_record(record_file: Path) -> None:
    published = json.loads(SCHEMA.read_text())
    assert published == json_schema(), "docs/result.schema.json: write json_schema() anew"
    record = json.loads(record_file.read_text())
    jsonschema.Draft202012Validator(published).validate(record)
    del record["metrics"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(published).validate(record)


def test_keys_are_sorted_and_the_file_reads_back(record_file: Path) -> None:
    text = record_file.read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    record = read_record(record_file)
    assert record.headline.ci95 is not None
    assert record.headline.ci95[0] < record.headline.value < record.headline.ci95[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("metrics"), "metrics: is missing"),
        (lambda r: r.update(note="x"), "note: is not a known key"),
        (lambda r: r.update(schema_version=7), "schema_version: expected 1 or 2, got 7"),
        (lambda r: r["metrics"]["top1@20"].update(value="0.9"), "metrics.top1@20.value: expected a valid number"),
        (lambda r: r["identity"]["task"].update(seed=4), "the record was changed by hand"),
        (lambda r: r["metrics"].pop("top1@20"), "the headline 'top1@20' is missing"),
    ],
)
def test_what_is_refused(record_file: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit(record_file, change)
    with pytest.raises(RequestError) as error:
        read_record(record_file)
    assert message in str(error.value)
    assert str(record_file) in str(error.value)


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(RequestError, match="not a result record"):
        read_record(tmp_path / "r.json")


def test_names_become_file_safe() -> None:
    assert file_safe("hf-hub:org/net v2") == "hf-hub_org_net_v2"
    assert file_safe("..") == "_.."
    assert file_safe("") == "_"
    long = file_safe("x" * 300)
    assert len(long) < 200
    assert long != file_safe("x" * 299 + "y")


def test_curves() -> None:
    metrics = {"top1@10": Score(value=0.5), "top1@20": Score(value=0.6), "nmi": Score(value=0.1)}
    assert curves(metrics) == {"top1": {"10": 0.5, "20": 0.6}}


def test_committed_records_were_made_by_commands_that_others_can_give() -> None:
    """The page shows the command that reproduces a record: no place of the machine that made it."""
    files = sorted((SCHEMA.parents[1] / "results").rglob("*.json"))
    assert files
    assert [(path.name, word) for path in files for word in read_record(path).argv if word.startswith(("/", "~"))] == []
