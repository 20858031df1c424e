"""What the `datasets` library reads: directories that it saved, and repositories whose tables name their images."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import datasets as hub_datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from massl_bench.core.errors import RequestError
from massl_bench.datasets import Dataset, open_dataset
from massl_bench.datasets.columns import Columns
from massl_bench.datasets.saved import SavedLayout
from massl_bench.specs.registry import Registry
from tests.datasets.test_layouts import NAMES, options, pixels, png, tiny_registry, write_saved
from tests.datasets.test_left_out import KNN, Run, make_hub_cache

FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
IMAGES = [png(image) for image in pixels(8, 5)]


def save(root: Path, shards: dict[str, int]) -> None:
    """Saves splits of four rows in so many files."""
    features = hub_datasets.Features({"image": hub_datasets.Image(), "label": hub_datasets.ClassLabel(names=NAMES)})
    rows = {"image": [{"bytes": image, "path": None} for image in IMAGES[:4]], "label": [0, 1, 0, 1]}
    splits = {name: hub_datasets.Dataset.from_dict(rows, features=features) for name in shards}
    hub_datasets.disable_progress_bars()
    hub_datasets.DatasetDict(splits).save_to_disk(str(root), num_shards=shards)


def saved(root: Path) -> Dataset:
    return Dataset(
        name="saved",
        kind="single-label",
        spec=None,
        layout=SavedLayout("datasets", root, Columns(), ("train", "test")),
        sources={"train": ("train",), "test": ("test",)},
        memo_dir=root.parent / "memo",
    )


@FEW
@given(
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(0, 2),
    st.lists(st.sampled_from(["train/cache-0123.arrow", "more.arrow", "test/0.png", "extra/1.jpg"]), unique=True),
    st.lists(st.sampled_from([".hidden.arrow", "README.md", "@eaDir/0.arrow", "train/.tmp.arrow"]), unique=True),
)
def test_saved_directories(train: int, test: int, other: int, beside: list[str], ignored: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "d"
        save(root, {"train": train, "test": test, **({"validation": other} if other else {})})
        for extra in (*beside, *ignored):
            (root / extra).parent.mkdir(exist_ok=True)
            (root / extra).write_bytes(b"x")
        dataset = saved(root)
        assert [len(dataset.split(role)) for role in ("train", "test")] == [4, 4]
        arrows = train + test
        there = arrows + other + len(beside)
        assert arrows + dataset.left_out.count == there
        assert len(dataset.left_out.first) == min(3, dataset.left_out.count)


names = st.lists(st.integers(0, 4), min_size=2, max_size=4, unique=True)


@FEW
@given(names, names, st.sampled_from(["metadata.jsonl", "metadata.csv"]), st.sampled_from([(), ("9.heic", "8.npy")]))
def test_repositories_whose_tables_name_images(
    train: list[int], test: list[int], table: str, beside: tuple[str, ...]
) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:

        def write(root: Path) -> None:
            for split, found in (("train", train), ("test", test)):
                (root / split).mkdir(parents=True)
                for number in range(5):
                    (root / split / f"{number}.png").write_bytes(IMAGES[number])
                for other in beside:
                    (root / split / other).write_bytes(b"x")
                rows: list[dict[str, Any]] = [
                    {"file_name": f"{number}.png", "label": place % 2} for place, number in enumerate(found)
                ]
                if table.endswith("jsonl"):
                    text = "".join(json.dumps(row) + "\n" for row in rows)
                else:
                    text = "file_name,label\n" + "".join(f"{row['file_name']},{row['label']}\n" for row in rows)
                (root / split / table).write_text(text)

        hub_datasets.disable_progress_bars()
        make_hub_cache(Path(name) / "hub", "org/pets", write, patch)
        dataset = open_dataset("hf:org/pets", Registry(), options(Path(name)))
        taken = {role: len(dataset.split(role)) for role in ("train", "test")}
        assert taken == {"train": len(train), "test": len(test)}
        assert sum(taken.values()) + dataset.left_out.count == 2 * (5 + len(beside))


@pytest.mark.parametrize("outside", ["../../../out.arrow", "{}/out.arrow", ".hidden.arrow", "../train/{}"])
def test_rows_of_files_that_are_not_the_dataset_s(outside: str, tmp_path: Path) -> None:
    """They would be read, and would not be in the fingerprint."""
    registry = tiny_registry(tmp_path)
    write_saved(tmp_path / "data" / "tiny")
    folder = tmp_path / "data" / "tiny" / "test"
    name = outside.format(tmp_path) if outside.startswith("{}") else outside.format("data-00000-of-00001.arrow")
    for place in (tmp_path / "out.arrow", folder / ".hidden.arrow"):
        shutil.copy(folder / "data-00000-of-00001.arrow", place)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "_data_files": [{"filename": name}]}))
    with pytest.raises(RequestError, match=r"test/state\.json: names .*, which is no file of this dataset"):
        open_dataset("tiny", registry, options(tmp_path)).split("test")


@pytest.mark.parametrize("kind", ["pipe", "endless"])
@pytest.mark.parametrize("name", ["dataset_dict.json", "test/state.json", "test/data-00000-of-00001.arrow"])
def test_what_is_no_file_is_not_waited_for(kind: str, name: str, tmp_path: Path) -> None:
    registry = tiny_registry(tmp_path)
    write_saved(tmp_path / "data" / "tiny")
    place = tmp_path / "data" / "tiny" / name
    place.unlink()
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/zero")

    def read() -> None:
        dataset = open_dataset("tiny", registry, options(tmp_path))
        assert dataset.fingerprint
        dataset.split("test")

    with pytest.raises(RequestError):
        read()


def write_table(root: Path, kind: str) -> None:
    """Writes both splits as one kind of table with the columns image, label, box and number."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(4):
        (root / f"{number}.png").write_bytes(IMAGES[number])
    image: list[Any] = [{"bytes": image, "path": None} for image in IMAGES[:4]]
    rows = {"image": image, "label": ["a", "b"] * 2, "box": [[1, 2]] * 4, "number": [0.5] * 4}
    for split in ("train", "test"):
        if kind == "parquet":
            pq.write_table(pa.table(rows), root / f"{split}-00000-of-00001.parquet")
        elif kind == "jsonl":
            columns = {**rows, "image": [f"{number}.png" for number in range(4)]}
            lines = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            (root / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_columns_that_are_none_are_known_before_work(
    kind: str, tmp_path: Path, run_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_hub_cache(tmp_path / "hub", "org/pets", lambda root: write_table(root, kind), monkeypatch)
    for option, column, message in (
        ("image", "picture", "no image column 'picture'; found: "),
        ("image", "number", "the column 'number' holds double, no images; found: "),
        ("label", "fine", "no label column 'fine'; found: "),
        ("label", "box", "the column 'box' holds list<.*>, no labels; found: "),
    ):
        answer = run_cli("run", "--dataset", "hf:org/pets", *KNN, f"--{option}-column", column)
        assert answer.code == 2
        assert re.search(message, answer.error)
        assert answer.error.endswith(f"name it with --{option}-column")


@pytest.mark.parametrize("names", [["a", ["b"]], [{"a": 1}, "b"], [1, 2], "ab", [None, "b"]])
def test_class_names_that_are_none(names: object, tmp_path: Path) -> None:
    registry = tiny_registry(tmp_path)
    write_saved(tmp_path / "data" / "tiny")
    file = tmp_path / "data" / "tiny" / "test" / "dataset_info.json"
    information = json.loads(file.read_text())
    information["features"]["label"]["names"] = names
    file.write_text(json.dumps(information))
    with pytest.raises(RequestError):
        open_dataset("tiny", registry, options(tmp_path)).split("test")


def test_offsets_that_lead_out_of_a_saved_table_are_refused(tmp_path: Path) -> None:
    """Followed, they would end the process by a signal."""
    registry = tiny_registry(tmp_path)
    root = tmp_path / "data" / "tiny"
    write_saved(root)
    (file,) = (root / "test").glob("*.arrow")
    content = file.read_bytes()
    with pa.memory_map(str(file)) as source:
        images = pa.ipc.open_stream(source).read_all().column("img").chunk(0).field("bytes")
        offsets = images.buffers()[1].to_pybytes()[: 4 * (len(images) + 1)]
    assert content.count(offsets) == 1
    file.write_bytes(content.replace(offsets, offsets[:-4] + (2**30).to_bytes(4, "little")))
    with pytest.raises(RequestError, match="cannot be read"):
        open_dataset("tiny", registry, options(tmp_path)).split("test")
