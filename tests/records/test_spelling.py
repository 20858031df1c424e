"""The canonical JSON of a record's parts, by the quick way and by the certain one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from massl_bench.core.files import canonical_json
from massl_bench.records import reading
from massl_bench.records.reading import read_record
from massl_bench.records.spelling import json_as_sorted

RESULTS = Path(__file__).parents[2] / "results"
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(0, 1e15) | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def as_sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: as_sorted(value[key]) for key in sorted(value)}
    return [as_sorted(part) for part in value] if isinstance(value, list) else value


@given(VALUES)
@example([1e-5, 1.5e-7, 1e-4, 0.1, 5e-324, 123456789.5, 1e15, 0.0, "e-", "0.0000", '\u2028\x7f\x1b"\\ü'])
def test_both_ways_spell_the_same(value: Any) -> None:
    assert json_as_sorted(as_sorted(value)) == canonical_json(value)


def test_committed_records_are_read_in_the_quick_way_and_say_the_same_in_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = sorted(RESULTS.glob("*/*/*.json"))
    assert files
    quick = [reading._as_written(json.loads(file.read_text())) for file in files]
    assert None not in quick
    monkeypatch.setattr(reading, "_as_written", lambda content: None)
    assert [read_record(file) for file in files] == quick


def test_a_file_with_other_keys_in_front_is_read_all_the_same(tmp_path: Path) -> None:
    file = next(RESULTS.glob("pixels/knn/digits.json"))
    content = json.loads(file.read_text())
    other = tmp_path / "record.json"
    other.write_text(json.dumps(dict(reversed(content.items()))))
    assert read_record(other) == read_record(file)
