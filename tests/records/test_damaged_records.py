"""Records that are not as they were written: found by their hash, set apart with a reason, no number in a table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from massl_bench.core.errors import RequestError
from massl_bench.core.files import SEAL, file_safe, sha256_of
from massl_bench.records.reading import read_record
from massl_bench.records.record import Identity, ResultRecord, old_record_path, record_path
from massl_bench.records.rows import collect
from massl_bench.records.tables import to_markdown
from massl_bench.report.formats import FORMATS
from massl_bench.specs.registry import Registry
from tests.conftest import Answer
from tests.made_records import edit
from tests.mutations import ROUNDS, flips, mutations

Cli = Callable[..., Answer]
HOSTILE = Path(__file__).parents[1] / "faults" / "hostile"
BUNDLED = Path(__file__).parents[2] / "results" / "massl-small-cifar10"
pytestmark = pytest.mark.faults


def without_seal(record: ResultRecord) -> dict[str, Any]:
    return record.model_dump(exclude={SEAL})


@pytest.mark.parametrize("name", ["knn", "spectrum", "linear"])
def test_no_damage_to_a_record_changes_a_number(tmp_path: Path, name: str) -> None:
    content = (BUNDLED / name / "cifar10.json").read_bytes()
    file = tmp_path / "record.json"
    whole = read_record(BUNDLED / name / "cifar10.json")
    refused: list[str] = []
    for damaged in (*flips(content, 150, seed=1), *mutations(content, 150, seed=2)):
        file.write_bytes(damaged)
        try:
            found = read_record(file)
        except RequestError as error:
            refused.append(str(error))
        else:
            assert without_seal(found) == without_seal(whole)
    assert len(refused) > 250 * ROUNDS
    assert all("\n" not in text and len(text) < 1000 for text in refused)


def test_every_digit_of_every_metric_counts(tmp_path: Path) -> None:
    text = (BUNDLED / "knn" / "cifar10.json").read_text()
    start, end = text.index('"metrics"'), text.index('"model_licence"')
    places = [place for place in range(start, end) if text[place].isdigit() and text[place - 1] != "@"][::7]
    file = tmp_path / "record.json"
    whole = read_record(BUNDLED / "knn" / "cifar10.json")
    for place in places:
        file.write_text(f"{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}")
        try:
            assert read_record(file) == whole  # beyond the seventeenth digit a number is the same
        except RequestError:
            continue


def as_first_schema(content: dict[str, Any]) -> dict[str, Any]:
    """Returns a record as it was written before records carried a hash of their content."""
    identity = {**content["identity"], "backend": content["environment"]["search_backend"]}
    environment = {key: value for key, value in content["environment"].items() if key != "search_backend"}
    changed = {"schema_version": 1, "identity": identity, "environment": environment}
    rest = {key: value for key, value in content.items() if key != SEAL}
    return {**rest, **changed, "identity_sha256": sha256_of(identity)}


def test_a_record_without_its_hash_is_refused(record_file: Path) -> None:
    content = json.loads(record_file.read_text())
    del content[SEAL]
    record_file.write_text(json.dumps(content))
    with pytest.raises(RequestError, match="content_sha256: is missing: the record was damaged, or changed by hand"):
        read_record(record_file)


def test_a_record_of_before_there_were_hashes_loads_and_is_marked(record_file: Path) -> None:
    content = as_first_schema(json.loads(record_file.read_text()))
    record_file.write_text(json.dumps(content))
    assert read_record(record_file).content_sha256 is None
    table = to_markdown(collect(Path("results"), Registry()))
    assert "95.78" in table
    assert "could not be seen:\n\n- pixels/knn/digits.json\n" in table
    # What such a record says twice must agree.
    content["metrics"]["top1@20"]["value"] = 0.99
    record_file.write_text(json.dumps(content))
    with pytest.raises(RequestError, match="curves: other values than metrics"):
        read_record(record_file)


@pytest.mark.parametrize("name", ["deep.json", "record-734-digits.json"])
def test_a_hostile_record_takes_no_table_down(record_file: Path, name: str) -> None:
    shutil.copy(HOSTILE / name, record_file.parent / name)
    board = collect(Path("results"), Registry())
    assert [row.path.name for row in board.rows] == ["digits.json"]
    ((path, reason),) = board.apart
    expected = {
        "deep.json": "unreadable: not a result record: lists and tables nested more than 64 deep",
        "record-734-digits.json": "unreadable: identity_sha256: does not match the identity",
    }
    assert path.name == name
    assert reason.startswith(expected[name])


def test_what_is_no_file_takes_no_table_down(record_file: Path, tmp_path: Path) -> None:
    import os

    os.mkfifo(record_file.parent / "pipe.json")
    (record_file.parent / "endless.json").symlink_to("/dev/zero")
    (record_file.parent / "gone.json").symlink_to(tmp_path / "nothing")
    board = collect(Path("results"), Registry())
    assert len(board.rows) == 1
    reasons = {path.name: reason for path, reason in board.apart}
    assert "not a regular file but a pipe" in reasons["pipe.json"]
    assert "not a regular file but a device" in reasons["endless.json"]
    assert "No such file" in reasons["gone.json"]


def _named(record: ResultRecord, **names: str) -> Identity:
    identity = record.identity
    changes = {
        "model": identity.model.model_copy(update={"name": names.get("model", identity.model.name)}),
        "dataset": identity.dataset.model_copy(update={"name": names.get("dataset", identity.dataset.name)}),
    }
    return identity.model_copy(update=changes)


def test_different_names_have_different_files() -> None:
    record = read_record(BUNDLED / "knn" / "cifar10.json")
    names = ["猫", "犬", "m/1", "m 1", "m_1", "é", "e\u0301", "..", "_..", "", "_", "a\udce9", "a\udcea", "x" * 300]
    names += ["x" * 299 + "y", file_safe("m/1"), record_path(Path(), _named(record, model="m/1"), []).parts[0]]
    for part in ("model", "dataset"):
        paths = {record_path(Path(), _named(record, **{part: name}), []) for name in set(names)}
        assert len(paths) == len(set(names))
        assert all(len(piece.encode()) < 255 for path in paths for piece in path.parts)


def test_a_record_under_its_old_name_counts_as_finished(run_cli: Cli) -> None:
    arguments = ("run", "--task", "knn", "--dataset", "digits", "--model", "pixels", "--name", "m/1")
    assert run_cli(*arguments).code == 0
    (path,) = Path("results").rglob("*.json")
    identity = read_record(path).identity
    old = old_record_path(Path("results"), identity, [])
    assert path != old
    assert old.as_posix() == "results/m_1/knn/digits.json"
    old.parent.mkdir(parents=True)
    path.rename(old)
    answer = run_cli(*arguments)
    assert "finished before" in answer.out
    assert not path.exists()
    # A record of another name in the old place is no obstacle.
    edit(old, lambda content: content["identity"]["model"].update(name="m_1"))
    assert "finished before" not in run_cli(*arguments).out
    assert path.is_file()


def test_a_damaged_record_is_named_in_every_format_and_fails_a_check(run_cli: Cli, record_file: Path) -> None:
    damaged = record_file.with_name("flowers102.json")
    why = "pixels/knn/flowers102.json: unreadable: "
    for name in FORMATS:
        damaged.write_text(record_file.read_text().replace("digits", "flower"))
        table = ("leaderboard", "--no-bundled", "--format", name)
        printed = run_cli(*table)
        assert printed.code == 0
        shown = printed.err if name == "csv" else printed.out
        assert "flowers102.json" in shown
        assert "unreadable: " in shown
        written = run_cli(*table, "--out", "table")
        assert written.code == 0
        assert why in written.err
        refused = run_cli(*table, "--out", "table", "--check")
        assert refused.code == 1
        assert why in refused.err
        assert "remove the file" in refused.err
        damaged.unlink()
        run_cli(*table, "--out", "table")
        assert run_cli(*table, "--out", "table", "--check").code == 0
