"""The items beside a record: written with it, named by it, checked when they are read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from massl_bench.core.errors import RequestError
from massl_bench.core.values import Resampled, Score
from massl_bench.records.items import read_items, remove_other_items, write_items
from massl_bench.records.reading import read_record
from massl_bench.records.record import ResultRecord
from massl_bench.records.rows import collect
from massl_bench.specs.registry import Registry
from tests.mutations import flips, mutations
from tests.report.made import record


def test_a_run_keeps_what_each_item_got(record_file: Path) -> None:
    found = read_record(record_file)
    items = read_items(record_file, found)
    assert set(items.outcomes) == {f"top{top}@{k}" for top in (1, 5) for k in (10, 20, 100, 200)}
    for name, column in items.outcomes.items():
        assert column.dtype == np.bool_
        assert column.mean() == pytest.approx(found.metrics[name].value, abs=1e-12)
    assert items.labels is not None
    assert len(items.labels) == found.num_items["test"] == 450
    assert found.items is not None
    assert found.items.num_items == 450
    assert set(items.predicted) == {f"top1@{k}" for k in (10, 20, 100, 200)}
    for name, predicted in items.predicted.items():
        np.testing.assert_array_equal(predicted == items.labels, items.outcomes[name])
    # The mean per class can be worked out from them.
    right = np.bincount(items.labels, weights=items.outcomes["top1@20"]) / np.bincount(items.labels)
    assert right.mean() == pytest.approx(found.metrics["mean_per_class@20"].value)
    assert len(list(record_file.parent.iterdir())) == 2
    assert len(collect(Path("results"), Registry()).rows) == 1


def made(path: Path, **columns: np.ndarray) -> ResultRecord:
    """A record at a path with these items."""
    scores = {name: Score(value=float(column.mean()), items=column) for name, column in columns.items()}
    content = record("m", "knn", "cifar10", 0.5)
    items = write_items(path, scores, np.arange(7) % 3, ["a", "b", "c"])
    assert items is not None
    return ResultRecord.model_validate({**content, "items": items.model_dump()})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    right = np.array([1, 0, 1, 1, 0, 0, 1], dtype=bool)
    columns = {"right": right, "zero_one": np.array([0.0, 1.0, 1.0]), "ap": np.linspace(0, 1, 7)}
    path = tmp_path / "x.json"
    items = read_items(path, made(path, **columns))
    assert items.outcomes["right"].tolist() == columns["right"].tolist()
    assert items.outcomes["zero_one"].tolist() == [False, True, True]
    assert items.outcomes["ap"].tolist() == columns["ap"].tolist()
    assert items.labels is not None
    assert items.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert items.class_names == ("a", "b", "c")


def test_resamples_are_kept_of_what_is_no_mean_over_items(tmp_path: Path) -> None:
    path, draws = tmp_path / "x.json", np.linspace(0.4, 0.6, 11)
    score = Score(value=0.5, resampled=Resampled(values=draws, key="abc"))
    items = write_items(path, {"map": score, "top1": Score(value=0.5)}, None)
    assert items is not None
    found = read_items(path, ResultRecord.model_validate({**record("m", "knn", "x", 0.5), "items": items.model_dump()}))
    assert found.outcomes == {}
    assert set(found.resampled) == {"map"}
    assert found.resampled["map"].key == "abc"
    assert found.resampled["map"].values.tolist() == draws.tolist()


def test_the_same_items_give_the_same_bytes(tmp_path: Path) -> None:
    column = np.array([True, False, True])
    scores = {name: Score(value=0.5, items=column) for name in ("b", "a")}
    files = [write_items(tmp_path / f"{n}.json", scores, None) for n in "xy"]
    assert files[0] is not None
    assert files[1] is not None
    assert files[0].sha256 == files[1].sha256


def test_every_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    found = made(path, right=np.array([1, 0, 1, 1, 0, 0, 1], dtype=bool))
    assert found.items is not None
    file = tmp_path / found.items.file
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(RequestError, match="other bytes"):
            read_items(path, found)
    file.unlink()
    with pytest.raises(RequestError, match="No such file"):
        read_items(path, found)


def test_a_record_cannot_point_elsewhere() -> None:
    content = record("m", "knn", "cifar10", 0.5)
    for name in ("../x", "a/b", "a\\b", ""):
        with pytest.raises(ValueError, match="pattern"):
            ResultRecord.model_validate({**content, "items": {"file": name, "sha256": "", "num_items": 1}})


def test_items_of_earlier_records_go(tmp_path: Path) -> None:
    path, other = tmp_path / "x.json", tmp_path / "x.y.json"
    score = {"a": Score(value=1.0, items=np.array([True]))}
    first, beside = write_items(path, score, None), write_items(other, score, None)
    second = write_items(path, {"a": Score(value=0.0, items=np.array([False]))}, None)
    remove_other_items(path, second)
    assert first is not None
    assert beside is not None
    assert second is not None
    assert {file.name for file in tmp_path.iterdir()} == {second.file, beside.file}


@pytest.mark.faults
def test_no_damage_to_items_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    made_record = made(path, right=np.arange(7) % 2 == 0, ap=np.linspace(0, 1, 7))
    assert made_record.items is not None
    file = tmp_path / made_record.items.file
    content = file.read_bytes()
    for damaged in (*flips(content, 120, seed=31), *mutations(content, 60, seed=32)):
        file.write_bytes(damaged)
        with pytest.raises(RequestError, match=r"other bytes than x\.json names") as error:
            read_items(path, made_record)
        assert "\n" not in str(error.value)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(RequestError, match="the items of x"):
        read_items(path, made_record)
