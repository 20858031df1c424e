"""Revisited Oxford and Paris in their published layout: order, boxes, ground truth, and wrong copies."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from massl_bench.core.errors import MissingDataError, RequestError, SpecError
from massl_bench.core.settings import DEFAULT_PREPROCESSING, PreprocessingOverride
from massl_bench.core.values import CopyTruth
from massl_bench.datasets import Dataset, check_boxes, decode_rgb, open_dataset
from massl_bench.datasets.published import READERS
from massl_bench.datasets.splits import FileSplit
from massl_bench.specs.registry import Registry
from tests.datasets.copies import LANDMARK_QUERIES, LANDMARK_SIZES, small_registry, write_landmarks
from tests.datasets.test_layouts import options

NAMES = ("roxford5k", "rparis6k")


def opened(tmp_path: Path, name: str = "roxford5k") -> Dataset:
    return open_dataset(name, small_registry(tmp_path, name, LANDMARK_SIZES), options(tmp_path))


def queries_of(dataset: Dataset, **limit: int) -> list[dict[str, list[int]]]:
    truth = dataset.ground_truth(**limit)
    assert truth is not None
    assert not isinstance(truth, CopyTruth)
    return [{name: getattr(query, name).tolist() for name in ("easy", "hard", "junk")} for query in truth]


@pytest.mark.parametrize("folder", ["jpg", "jpg/paris/{}", "paris/{}"])
@pytest.mark.parametrize("name", NAMES)
def test_order_boxes_and_ground_truth(name: str, folder: str, tmp_path: Path) -> None:
    names = write_landmarks(tmp_path / "data" / name, name, folder)
    dataset = opened(tmp_path, name)
    for role in ("database", "queries"):
        split = dataset.split(role)
        assert split.labels is None
        assert [Path(split.locate(index)).stem for index in range(len(split))] == names[role]
    assert dataset.split("database").boxes is None
    boxes = dataset.split("queries").boxes
    assert boxes is not None
    assert boxes.tolist() == [query["bbx"] for query in LANDMARK_QUERIES]
    found = queries_of(dataset)
    assert found == [{name: query[name] for name in ("easy", "hard", "junk")} for query in LANDMARK_QUERIES]
    assert queries_of(dataset, num_queries=1) == found[:1]
    assert (dataset.num_classes, dataset.class_names) == (None, None)


def test_the_ground_truth_is_a_part_of_the_fingerprint(tmp_path: Path) -> None:
    root = tmp_path / "data" / "roxford5k"
    write_landmarks(root, "roxford5k")
    before = opened(tmp_path).fingerprint
    moved = [{**LANDMARK_QUERIES[0], "bbx": [11, 5, 70, 45]}, LANDMARK_QUERIES[1]]  # type: ignore[dict-item]
    write_landmarks(root, "roxford5k", gnd=moved)
    assert opened(tmp_path).fingerprint != before


def changed(**changes: Any) -> list[dict[str, Any]]:
    return [{**LANDMARK_QUERIES[0], **changes}, LANDMARK_QUERIES[1]]  # type: ignore[dict-item, list-item]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gnd": changed(easy=[0, 6])}, "query 0: easy names image 6, which is not in imlist; allowed: 0 to 5"),
        ({"gnd": changed(junk=[-1])}, "query 0: junk names image -1, which is not in imlist"),
        ({"gnd": changed(hard=[0.5])}, r"query 0: hard: expected rows of imlist, got float64 \[1\]"),
        ({"gnd": changed(bbx=[70, 5, 10, 45])}, "bbx: expected left, top, right and bottom of a box"),
        ({"gnd": changed(bbx=[1, 2, 3])}, "not as published: ValueError"),
        ({"gnd": LANDMARK_QUERIES[:1]}, "2 queries, and gnd describes 1"),
        ({"gnd": [{"bbx": [0, 0, 1, 1]}] * 2}, "not as published: KeyError: 'easy'"),
        ({"imlist": ["../../secret"] * 6}, r"expected the name of an image, got '\.\./\.\./secret'"),
        ({"qimlist": None}, "not as published: TypeError"),
    ],
)
def test_a_damaged_ground_truth(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_landmarks(tmp_path / "data" / "roxford5k", "roxford5k", **changes)
    with pytest.raises(RequestError, match=rf"gnd_roxford5k\.pkl: not as published: .*{message}|{message}") as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it-ran",)


def test_a_ground_truth_that_would_run_code_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "data" / "roxford5k"
    write_landmarks(root, "roxford5k")
    (root / "gnd_roxford5k.pkl").write_bytes(pickle.dumps({"gnd": _Runs()}))
    with pytest.raises(RequestError, match=r"gnd_roxford5k\.pkl: not read: it contains \w+\.mkdir, and only arrays"):
        opened(tmp_path)
    assert not Path("it-ran").exists()


def test_missing_images_are_named_and_counted(tmp_path: Path) -> None:
    root = tmp_path / "data" / "roxford5k"
    names = write_landmarks(root, "roxford5k")
    for name in names["database"][1:]:
        (root / "jpg" / f"{name}.jpg").unlink()
    (root / "jpg" / f"{names['queries'][1]}.jpg").unlink()
    with pytest.raises(RequestError, match=r"incomplete: jpg/place_a_database000001\.jpg, .* and 1 more not found"):
        opened(tmp_path)


def test_a_copy_without_its_ground_truth(tmp_path: Path) -> None:
    root = tmp_path / "data" / "roxford5k"
    write_landmarks(root, "roxford5k")
    (root / "gnd_roxford5k.pkl").unlink()
    message = r"expected its own layout \(with gnd_roxford5k\.pkl\); next: download https://www\.robots"
    with pytest.raises(MissingDataError, match=message):
        opened(tmp_path)


def test_another_copy_is_told_by_its_size(tmp_path: Path) -> None:
    write_landmarks(tmp_path / "data" / "rparis6k", "rparis6k")
    with pytest.raises(RequestError, match="found 6 images, expected 6,322"):
        open_dataset("rparis6k", Registry(), options(tmp_path)).split("database")


@pytest.mark.parametrize(("name", "num_images", "never_easy"), [("roxford5k", 4993, 2), ("rparis6k", 6322, 0)])
def test_the_real_ground_truth(name: str, num_images: int, never_easy: int, real_data: Path) -> None:
    folder = real_data / "revisited"
    if not (folder / f"gnd_{name}.pkl").is_file():
        pytest.skip(f"no revisited/gnd_{name}.pkl in MASSL_BENCH_DATA")
    reader = READERS[name]
    assert reader.truth is not None
    truth = reader.truth(folder)
    assert not isinstance(truth, CopyTruth)
    sizes = {role: len(reader.read(folder, role)) for role in ("database", "queries")}
    assert sizes == {"database": num_images, "queries": 70}
    assert sizes == {role: split.size for role, split in Registry().dataset(name).splits.items()}
    assert len(truth) == 70
    assert sum(len(query.easy) == 0 for query in truth) == never_easy
    boxes = reader.read(folder, "queries").boxes
    assert boxes is not None
    assert (boxes[:, 2:] - boxes[:, :2] > 20).all()


def test_splits_without_boxes(tmp_path: Path) -> None:
    boxed = PreprocessingOverride(query_box=True).apply(DEFAULT_PREPROCESSING)
    with pytest.raises(RequestError, match=r"cropped to their boxes, and these have none \(the first: 1\.jpg\)"):
        check_boxes(FileSplit(tmp_path, ["1.jpg"], None, None), boxed)
    check_boxes(FileSplit(tmp_path, ["1.jpg"], None, None), boxed.of_split("database"))


def test_images_are_read_whatever_the_folder(tmp_path: Path) -> None:
    write_landmarks(tmp_path / "data" / "rparis6k", "rparis6k", "paris/{}")
    encoded = opened(tmp_path, "rparis6k").split("database").encoded(range(6))
    sizes = [decode_rgb(image).size for image in encoded]
    assert sizes == [(600, 410), (600, 410), (60, 100), (600, 410), (60, 100), (90, 90)]
    assert np.asarray(decode_rgb(encoded[0])).tobytes() == np.asarray(decode_rgb(encoded[3])).tobytes()


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("digits", "num_classes = 10\n", "", "num_classes: is missing, and a single-label dataset has classes"),
        ("roxford5k", "kind = ", "num_classes = 11\nkind = ", "a retrieval dataset has no classes"),
    ],
)
def test_only_labelled_kinds_have_classes(name: str, old: str, new: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "own" / "tasks" / "datasets"
    folder.mkdir(parents=True)
    content = Registry().datasets[name].read_text()
    assert old in content
    (folder / f"{name}.toml").write_text(content.replace(old, new))
    with pytest.raises(SpecError, match=message):
        Registry([tmp_path / "own"]).dataset(name)
