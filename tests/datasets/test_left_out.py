"""What is taken and what is named as left out are together what is there, over every layout."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from massl_bench.core.errors import RequestError, SpecError
from massl_bench.datasets import DataOptions, Dataset, open_dataset
from massl_bench.datasets.columns import Columns
from massl_bench.datasets.layouts import find_parquet
from massl_bench.specs.registry import Registry
from tests.conftest import Answer
from tests.datasets.test_layouts import make_hub_cache

Run = Callable[..., Answer]

FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
IMAGES = (".png", ".PNG", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".tif", ".webp", ".avif", ".jp2", ".ppm")
OTHERS = (".heic", ".eps", ".npy", ".csv", ".zip", "", ".png.part", ".jpg~", ".mp4")
IGNORED = (".hidden.png", "Thumbs.db", ".DS_Store", "desktop.ini", "README.md", "notes.txt")
IGNORED_FOLDERS = ("@eaDir", "__MACOSX", ".thumbnails", "lost+found", "$RECYCLE.BIN")

suffixes = st.lists(st.sampled_from(IMAGES + OTHERS), min_size=1, max_size=6)
junk = st.lists(st.sampled_from(IGNORED), max_size=2, unique=True)
junk_folders = st.lists(st.sampled_from(IGNORED_FOLDERS), max_size=2, unique=True)


def png(colour: int = 0) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 4), (colour % 256, colour // 256, 9)).save(content, "PNG")
    return content.getvalue()


def fill(folder: Path, found: Sequence[str], ignored: Sequence[str], ignored_folders: Sequence[str]) -> int:
    """Fills a folder; returns how many items it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, suffix in enumerate(found):
        place = folder if number % 2 else folder / "deeper"
        place.mkdir(exist_ok=True)
        (place / f"{number}{suffix}").write_bytes(b"x")
    for name in ignored:
        (folder / name).write_bytes(b"x")
    for name in ignored_folders:
        (folder / name).mkdir()
        (folder / name / "0.png").write_bytes(b"x")
    return len(found)


def options(place: Path) -> DataOptions:
    return DataOptions(cache_dir=place / "cache")


@FEW
@given(suffixes, suffixes, suffixes, suffixes, junk, junk_folders, st.booleans())
def test_class_folders(
    one: list[str],
    two: list[str],
    three: list[str],
    extra: list[str],
    ignored: list[str],
    folders: list[str],
    val: bool,
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "d"
        there = 0
        for place, found in (("train/a", one), ("train/b", two), ("test/a", three)):
            there += fill(root / place, [*found, ".png"], ignored, folders)
        if val:
            there += fill(root / "val" / "a", extra, ignored, [])
        there += fill(root, [suffix for suffix in extra if suffix], ignored, folders)
        dataset = open_dataset(f"folder:{root}", Registry(), options(Path(name)))
        taken = sum(len(dataset.split(role)) for role in dataset.sources)
        assert taken + dataset.left_out.count == there
        assert len(dataset.left_out.first) == min(3, dataset.left_out.count)


@FEW
@given(suffixes, junk, junk_folders)
def test_plain_folders(found: list[str], ignored: list[str], folders: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "d"
        there = fill(root, [*found, ".gif"], ignored, folders)
        dataset = open_dataset(f"folder:{root}", Registry(), options(Path(name)))
        assert len(dataset.split("all")) + dataset.left_out.count == there


members = st.lists(
    st.tuples(
        st.sampled_from(["{0}{1}", "a/{0}{1}", "{0}.input{1}", "./{0}{1}"]),
        st.sampled_from(IMAGES + OTHERS + (".json", ".cls")),
        st.sampled_from(["file", "file", "file", "hard link", "link", "pipe", "folder"]),
    ),
    min_size=1,
    max_size=8,
)


def add(tar: tarfile.TarFile, name: str, kind: str, target: str) -> int:
    """Adds a member; returns 1 where it is an item."""
    member = tarfile.TarInfo(name)
    content = b"1" if name.endswith(".cls") else b"x"
    match kind:
        case "file":
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
            return 1
        case "hard link":
            member.type, member.linkname = tarfile.LNKTYPE, target
        case "link":
            member.type, member.linkname = tarfile.SYMTYPE, target
        case "pipe":
            member.type = tarfile.FIFOTYPE
        case "folder":
            member.type = tarfile.DIRTYPE
    tar.addfile(member)
    return int(kind != "folder")


@FEW
@given(st.lists(members, min_size=1, max_size=3))
def test_tars(parts: list[list[tuple[str, str, str]]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        content = b""
        there = number = 0
        for part in parts:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                there += add(tar, f"first{number}.png", "file", "")
                target = f"first{number}.png"
                for pattern, suffix, kind in part:
                    number += 1
                    # A label is counted with its image, and named where it has none.
                    there += add(tar, pattern.format(f"{number:03}", suffix), kind, target)
                number += 1
            content += buffer.getvalue()
        (Path(name) / "a.tar").write_bytes(content)
        dataset = open_dataset(f"wds:{name}/a.tar", Registry(), options(Path(name)))
        assert len(dataset.split("all")) + dataset.left_out.count == there


def write_table(path: Path, rows: int = 2, *, names: Sequence[str] | None = ("a", "b"), label: str = "label") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": [{"bytes": png(row), "path": None} for row in range(rows)], label: [0, 1] * (rows // 2)})
    if names is not None:
        features = {"features": {label: {"names": list(names), "_type": "ClassLabel"}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": features})})
    pq.write_table(table, path)


def tables(root: Path, config: str | None = None) -> Dataset:
    layout = find_parquet(root, ["train", "test"], Columns(), config)
    assert layout is not None
    return Dataset(
        name="tables",
        kind="single-label",
        spec=None,
        layout=layout,
        sources={"train": ("train",), "test": ("test",)},
        memo_dir=root.parent / "memo",
    )


@FEW
@given(
    st.lists(
        st.sampled_from(["train-extra-00000-of-00001", "validation-00000-of-00001", "other", "train2"]), unique=True
    ),
    st.integers(1, 3),
    junk,
)
def test_parquet_sets(beside: list[str], shards: int, ignored: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "d"
        for number in range(shards):
            write_table(root / f"train-{number:05}-of-{shards:05}.parquet")
        write_table(root / "test-00000-of-00001.parquet")
        for other in beside:
            write_table(root / f"{other}.parquet")
        for other in ignored:
            (root / other).write_bytes(b"x")
        dataset = tables(root)
        taken = len(dataset.layout.files())
        assert taken == shards + 1
        assert len(dataset.split("train")) == 2 * shards
        assert taken + dataset.left_out.count == shards + 1 + len(beside)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (["train-00000-of-00003", "train-00002-of-00003"], "number 1 missing"),
        (["train-00000-of-00002", "train-00001-of-00002", "train-00000-of-00003"], "more than one series"),
        (["train-00000-of-00001", "train-00000-of-00001-0123456789abcdef"], "number 0 is there twice"),
        (["train-0", "train-2"], "number 1 missing"),
        (["train", "train-00000-of-00001"], "more than one series"),
    ],
)
def test_a_series_that_is_not_whole(files: list[str], problem: str, tmp_path: Path) -> None:
    for name in [*files, "test-00000-of-00001"]:
        write_table(tmp_path / "d" / f"{name}.parquet")
    with pytest.raises(RequestError, match=problem):
        tables(tmp_path / "d")


def test_configurations_are_chosen(tmp_path: Path) -> None:
    for config, rows in (("large", 4), ("small", 2)):
        for split in ("train", "test"):
            write_table(tmp_path / "d" / config / f"{split}-00000-of-00001.parquet", rows)
    with pytest.raises(RequestError, match="2 configurations have the splits train, test: large, small; choose one"):
        tables(tmp_path / "d")
    dataset = tables(tmp_path / "d", "small")
    assert len(dataset.split("train")) == 2
    assert dataset.left_out.first == ("large/test-00000-of-00001.parquet", "large/train-00000-of-00001.parquet")
    with pytest.raises(RequestError, match=r"no configuration 'medium' .*there are: large, small"):
        tables(tmp_path / "d", "medium")


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ({"train-1-of-2": None}, "no class names for 'label', and other files of the split have some"),
        ({"train-1-of-2": ("a", "c")}, r"its classes are not those of train-0-of-2.parquet \('b' is in one of them\)"),
        ({"test-0-of-1": None}, "only the training split names its classes"),
        ({"train-0-of-2": None, "train-1-of-2": None}, "only this split names its classes"),
    ],
)
def test_classes_that_are_not_known_to_be_the_same(
    names: Mapping[str, Sequence[str] | None], problem: str, tmp_path: Path
) -> None:
    for name in ("train-0-of-2", "train-1-of-2", "test-0-of-1"):
        write_table(tmp_path / "d" / f"{name}.parquet", names=names.get(name, ("a", "b")))
    with pytest.raises(RequestError, match=problem):
        tables(tmp_path / "d").split("test")


def test_images_that_a_table_names_are_in_its_fingerprint(tmp_path: Path) -> None:
    root = tmp_path / "d"
    (root / "images").mkdir(parents=True)
    (root / "images" / "0.png").write_bytes(png(1))
    for split in ("train", "test"):
        table = pa.table({"image": ["images/0.png"] * 2, "label": [0, 1]})
        pq.write_table(table, root / f"{split}-00000-of-00001.parquet")
    before = tables(root)
    assert before.layout.files()[-1] == root / "images" / "0.png"
    assert not before.left_out
    fingerprint = before.fingerprint
    stamp = (root / "images" / "0.png").stat()
    (root / "images" / "0.png").write_bytes(png(2))
    os.utime(root / "images" / "0.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert tables(root).fingerprint != fingerprint


def test_a_dictionary_of_large_images_is_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from massl_bench.datasets import tables as tables_module

    image = os.urandom(100_000)
    table = pa.table({"image": [{"bytes": image, "path": None}] * 500})
    pq.write_table(table, tmp_path / "x.parquet", dictionary_pagesize_limit=1 << 20)
    assert (tmp_path / "x.parquet").stat().st_size < 110_000
    monkeypatch.setattr(tables_module, "_HELD_BYTES", 1 << 20)
    monkeypatch.setattr(tables_module, "_PIECE_BYTES", 1 << 20)
    split = tables_module.ParquetSplit([tmp_path / "x.parquet"], "image", None)
    assert split.encoded([0, 499, 3, 250]) == [image] * 4
    assert split._held is not None
    assert sum(values.nbytes for _, values in split._held[1]._held) < 3 << 20


def test_more_rows_than_a_file_has_bytes(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([None] * 1_000_000, pa.binary()), "label": pa.array([0] * 1_000_000)})
    pq.write_table(table, tmp_path / "x.parquet")
    from massl_bench.datasets.tables import ParquetSplit

    with pytest.raises(RequestError, match="it declares 1,000,000 rows in"):
        ParquetSplit([tmp_path / "x.parquet"], "image", "label")


@pytest.mark.parametrize("target", ["..", "../..", "../../.."])
def test_links_that_lead_above_are_refused(target: str, tmp_path: Path) -> None:
    for place in ("train/a", "train/b", "test/a", "test/b"):
        fill(tmp_path / "d" / place, [".png"], [], [])
    (tmp_path / "d" / "train" / "a" / "up").symlink_to(target, target_is_directory=True)
    with pytest.raises(
        RequestError, match=r"train/a/up: a link to .*, which holds .*: what lies there would be counted"
    ):
        open_dataset(f"folder:{tmp_path / 'd'}", Registry(), options(tmp_path)).split("train")


def test_links_between_classes_are_refused(tmp_path: Path) -> None:
    for place in ("train/a", "train/b", "test/a", "test/b"):
        fill(tmp_path / "d" / place, [".png"], [], [])
    (tmp_path / "d" / "train" / "a" / "more").symlink_to("../b", target_is_directory=True)
    with pytest.raises(
        RequestError, match=r"train/a/more/deeper: leads to .*/train/b/deeper, which is of another class"
    ):
        open_dataset(f"folder:{tmp_path / 'd'}", Registry(), options(tmp_path)).split("train")


def images(root: Path, folders: Sequence[str], each: int = 5) -> None:
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for index in range(each):
            (root / folder / f"{index}.png").write_bytes(png(60 * number + index))


KNN = ("--task", "knn", "--set", "knn.k=1", "--set", "knn.headline=top1@1", "--model", "pixels")


def test_a_folder_of_classes_is_divided(run_cli: Run, tmp_path: Path) -> None:
    images(tmp_path / "d", ["a", "b"])
    reference = f"folder:{tmp_path / 'd'}"
    answer = run_cli("run", "--dataset", reference, *KNN)
    assert (answer.code, "is divided by --split-share 0.2" in answer.error) == (2, True)
    answer = run_cli("run", "--dataset", reference, *KNN, "--split-share", "0.2", "--json")
    assert answer.code == 0, answer.err
    (path,) = Path("results").rglob("*.json")
    record = json.loads(path.read_text())
    assert record["num_items"] == {"train": 8, "test": 2}
    assert record["request"]["split_share"] == 0.2
    one, other = (
        open_dataset(reference, Registry(), DataOptions(cache_dir=tmp_path / "c", split_share=share)).fingerprint
        for share in (0.2, 0.4)
    )
    assert one != other


def test_samples_are_balanced_and_a_part_of_the_identity(run_cli: Run, tmp_path: Path) -> None:
    images(tmp_path / "d", ["train/a", "train/b", "test/a", "test/b"])
    reference = f"folder:{tmp_path / 'd'}"
    answer = run_cli("run", "--dataset", reference, *KNN, "--limit", "4")
    assert answer.code == 2
    assert "the first 4 train items of" in answer.error
    assert "are of 1 of its 2 classes; --sample train=4 draws as many from every class" in answer.error
    answer = run_cli("run", "--dataset", reference, *KNN, "--sample", "train=4,test=2", "--json")
    assert answer.code == 0, answer.err
    (path,) = Path("results").rglob("*.json")
    record = json.loads(path.read_text())
    assert (record["num_items"], record["complete"]) == ({"train": 4, "test": 2}, False)
    assert record["departures"][-2:] == ["--sample test=2", "--sample train=4"]
    sampled = open_dataset(reference, Registry(), DataOptions(cache_dir=tmp_path / "c", sample={"train": 4}))
    labels = sampled.split("train").labels
    assert labels is not None
    assert labels.tolist() == [0, 0, 1, 1]
    answer = run_cli("run", "--dataset", reference, *KNN, "--sample", "train=4,test=2,seed=7", "--json")
    assert answer.code == 0, answer.err
    again = json.loads(next(file for file in Path("results").rglob("*.json") if file != path).read_text())
    assert again["departures"][-3:] == ["--sample test=2", "--sample train=4", "--sample seed=7"]
    assert again["request"]["sample_seed"] == 7
    assert again["identity"]["dataset"]["fingerprint"] != record["identity"]["dataset"]["fingerprint"]
    drawn = set()
    for seed in range(5):
        other = replace(options(tmp_path), sample={"train": 4}, sample_seed=seed)
        drawn.add(open_dataset(reference, Registry(), other).split("train").ids(4).tobytes())
    assert len(drawn) > 1
    assert sampled.fingerprint != open_dataset(reference, Registry(), options(tmp_path)).fingerprint


def test_copy_detection_on_a_labelled_folder(run_cli: Run, tmp_path: Path) -> None:
    images(tmp_path / "d", ["train/a", "train/b", "test/a", "test/b"])
    shutil.copy(tmp_path / "d/train/a/0.png", tmp_path / "d/train/a/twin.png")
    answer = run_cli("run", "--dataset", f"folder:{tmp_path / 'd'}", "--task", "copy-detection", "--model", "pixels")
    assert answer.code == 0, answer.err
    assert "1 file left out: train/a/twin.png" in answer.err


@pytest.mark.parametrize("directory", ["/etc", "../x", "a/../../b", "C:\\\\x"])
def test_a_dataset_stays_in_the_data_root(directory: str, tmp_path: Path) -> None:
    from massl_bench.specs.registry import packaged_root

    (tmp_path / "tasks" / "datasets").mkdir(parents=True)
    text = (packaged_root() / "tasks" / "datasets" / "digits.toml").read_text()
    content = f'directory = "{directory}"\n' + text
    (tmp_path / "tasks" / "datasets" / "digits.toml").write_text(content)
    with pytest.raises(
        SpecError, match=r"directory: expected a folder of the data root, as a relative path without .."
    ):
        Registry([tmp_path]).dataset("digits")


def test_labels_that_are_missing_are_known_before_work(
    run_cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(root: Path) -> None:
        for split in ("train", "test"):
            write_table(root / "data" / f"{split}-00000-of-00001.parquet", label="fine_label")

    make_hub_cache(tmp_path / "hub", "org/pets", write, monkeypatch)
    answer = run_cli("run", "--dataset", "hf:org/pets", *KNN)
    assert answer.code == 2
    assert (
        "task knn needs labels; hf:org/pets: no column is called label; found: image, fine_label; name it with "
        "--label-column" in answer.error
    )


def test_workers_where_shared_memory_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    from massl_bench.core import devices
    from massl_bench.features.loading import _batches_ahead

    monkeypatch.setattr(devices.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(64 << 20, 0, 64 << 20))
    monkeypatch.setattr(devices, "SHARED_MEMORY", Path("/"))
    assert [_batches_ahead(2, size << 20) for size in (1, 6, 8, 16)] == [4, 4, 2, 1]
    with pytest.raises(RequestError, match=r"2 loader processes need about 80 MB .*--shm-size=2g.* num_workers=0"):
        _batches_ahead(2, 20 << 20)
