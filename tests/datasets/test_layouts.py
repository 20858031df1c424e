"""Every layout of the data root, on small copies in the real format; and what is said where a copy is wrong."""

from __future__ import annotations

import errno
import io
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets as hub_datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from massl_bench.core.errors import MissingDataError, RequestError, SpecError
from massl_bench.datasets import Columns, DataOptions, Dataset, decode_rgb, open_dataset
from massl_bench.datasets.splits import ArraySplit, JoinedSplit
from massl_bench.datasets.tables import ConvertedSplit
from massl_bench.specs.registry import Registry
from tests.conftest import Answer, make_hub_cache, write_image

NAMES = ["airplane", "automobile", "bird"]


def tiny_registry(root: Path, **changes: str) -> Registry:
    """A registry with the dataset `tiny`: three classes, 6 training and 3 test images, CIFAR's own layout."""
    lines = {
        "name": '"tiny"',
        "kind": '"single-label"',
        "num_classes": "3",
        "class_names": str(NAMES).replace("'", '"'),
        "image_column": '"img"',
        "label_column": '"label"',
        "reader": '"cifar10"',
        "metric": '"top1"',
        "summary": '"s"',
        "licence": '"l"',
        "citation": '"c"',
        "by_hand": '"ask the publisher"',
        "splits": '{ train = { size = 6, source = "train" }, test = { size = 3, source = "test" } }',
        **changes,
    }
    folder = root / "registry" / "tasks" / "datasets"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.toml").write_text("".join(f"{key} = {value}\n" for key, value in lines.items() if value))
    return Registry([root / "registry"])


def pixels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()


TRAIN, TEST = pixels(6, 1), pixels(3, 2)
LABELS = {"train": [0, 1, 2, 0, 1, 2], "test": [2, 1, 0]}


def write_parquet(root: Path, labels: dict[str, list[int]] = LABELS, names: list[str] | None = None) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for split, images in (("train", TRAIN), ("test", TEST)):
        count = len(labels[split])
        rows = {"img": [{"bytes": png(image), "path": None} for image in images[:count]], "label": labels[split]}
        table = pa.table(rows)
        if names is not None:
            features = hub_datasets.Features(
                {"img": hub_datasets.Image(), "label": hub_datasets.ClassLabel(names=names)}
            )
            table = hub_datasets.Dataset.from_dict(rows, features=features).data.table
        pieces = [table.slice(0, count // 2), table.slice(count // 2)]  # two files, one row group a row
        for number, piece in enumerate(pieces):
            pq.write_table(piece, root / f"{split}-{number:05}-of-00002.parquet", row_group_size=1)


def write_cifar(root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def planes(images: np.ndarray) -> np.ndarray:
        return images.transpose(0, 3, 1, 2).reshape(len(images), -1)

    batches = {f"data_batch_{n + 1}": (TRAIN[n : n + 1], LABELS["train"][n : n + 1]) for n in range(4)}
    batches["data_batch_5"] = TRAIN[4:], LABELS["train"][4:]
    batches["test_batch"] = TEST, LABELS["test"]
    for name, (images, labels) in batches.items():
        (folder / name).write_bytes(pickle.dumps({"data": planes(images), "labels": labels}, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": NAMES}, protocol=2))


def write_folders(root: Path) -> None:
    for split, images in (("train", TRAIN), ("val", TEST)):
        for number, (image, label) in enumerate(zip(images, LABELS["test" if split == "val" else split], strict=True)):
            path = root / split / NAMES[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    (root / "train" / "bird" / "notes.txt").write_text("not an image")


def write_saved(root: Path) -> None:
    features = hub_datasets.Features({"img": hub_datasets.Image(), "label": hub_datasets.ClassLabel(names=NAMES)})
    splits = {
        split: hub_datasets.Dataset.from_dict(
            {"img": [{"bytes": png(image), "path": None} for image in images], "label": LABELS[split]},
            features=features,
        )
        for split, images in (("train", TRAIN), ("test", TEST))
    }
    hub_datasets.DatasetDict(splits).save_to_disk(str(root))


WRITERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "parquet": (write_parquet, "parquet"),
    "published": (write_cifar, "cifar-10-batches-py"),
    "folders": (write_folders, "folders"),
    "datasets": (write_saved, "saved"),
}


def options(root: Path, **changes: Any) -> DataOptions:
    return DataOptions(cache_dir=root / "cache", data_root=root / "data", offline=True, **changes)


def content(dataset: Dataset, role: str) -> list[tuple[int, bytes]]:
    split = dataset.split(role)
    assert split.labels is not None
    images = [decode_rgb(encoded).tobytes() for encoded in split.encoded(range(len(split)))]
    return sorted(zip(split.labels.tolist(), images, strict=True))


@pytest.mark.parametrize("kind", WRITERS)
def test_every_layout_gives_the_same_images_and_labels(kind: str, tmp_path: Path) -> None:
    WRITERS[kind][0](tmp_path / "data" / "tiny")
    dataset = open_dataset("tiny", tiny_registry(tmp_path), options(tmp_path))
    assert dataset.layout.kind == kind
    for role, images in (("train", TRAIN), ("test", TEST)):
        expected = sorted((label, image.tobytes()) for label, image in zip(LABELS[role], images, strict=True))
        assert content(dataset, role) == expected
    assert dataset.class_names == tuple(NAMES)


@pytest.mark.parametrize("kind", WRITERS)
def test_the_fingerprint_follows_the_content(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "data" / "tiny"
    WRITERS[kind][0](root)
    registry = tiny_registry(tmp_path)
    before = open_dataset("tiny", registry, options(tmp_path)).fingerprint
    assert open_dataset("tiny", registry, options(tmp_path)).fingerprint == before
    file = next(
        path for path in open_dataset("tiny", registry, options(tmp_path)).layout.files() if path.stat().st_size
    )
    changed = bytearray(file.read_bytes())
    changed[len(changed) // 2] ^= 1
    file.write_bytes(changed)
    os.utime(file, ns=(1, 1))
    assert open_dataset("tiny", registry, options(tmp_path)).fingerprint != before


def test_parquet_rows_are_located_and_order_is_kept(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "tiny")
    split = open_dataset("tiny", tiny_registry(tmp_path), options(tmp_path)).split("train")
    assert [split.locate(i) for i in (0, 2, 3, 5)] == [
        "train-00000-of-00002.parquet, row 0",
        "train-00000-of-00002.parquet, row 2",
        "train-00001-of-00002.parquet, row 0",
        "train-00001-of-00002.parquet, row 2",
    ]
    assert decode_rgb(split.encoded([4])[0]).tobytes() == TRAIN[4].tobytes()
    assert split.ids(2).tolist() == [b"train-00000-of-00002.parquet, row 0", b"train-00000-of-00002.parquet, row 1"]


def test_parquet_is_converted_to_be_read_in_any_order(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "tiny")
    split = open_dataset("tiny", tiny_registry(tmp_path), options(tmp_path)).split("train")
    anywhere = split.for_any_order(tmp_path / "c")
    assert isinstance(anywhere, ConvertedSplit)
    order = [5, 0, 4, 1]
    assert anywhere.encoded(order) == split.encoded(order)
    assert anywhere.locate(5) == split.locate(5)
    np.testing.assert_array_equal(anywhere.labels, split.labels)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "c" / "arrow").rglob("*.arrow")}
    assert files
    split.for_any_order(tmp_path / "c")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "c" / "arrow").rglob("*.arrow")} == files


def test_the_archive_may_lie_directly_in_the_data_root(tmp_path: Path) -> None:
    write_cifar(tmp_path / "data")
    assert open_dataset("tiny", tiny_registry(tmp_path), options(tmp_path)).layout.kind == "published"


@pytest.mark.parametrize(
    ("changes", "labels", "names", "message"),
    [
        ({}, {"train": [0, 1, 2, 0], "test": [2, 1, 0]}, None, "found 4 images, expected 6"),
        ({}, {"train": [0, 1, 1, 0, 1, 0], "test": [2, 1, 0]}, None, "found 2 classes, expected 3"),
        ({}, {"train": [1, 2, 3, 1, 2, 3], "test": [2, 1, 0]}, None, "found labels from 1 to 3, expected 0 to 2"),
        ({}, {"train": [0, 1, 2, 0, 1, 2], "test": [-1, -1, -1]}, None, "found labels from -1 to -1"),
        ({}, LABELS, ["bird", "airplane", "automobile"], "class 0: found 'bird', expected 'airplane'"),
        ({"label_column": '"fine_label"'}, LABELS, None, "no label column 'fine_label'; found: img, label"),
        ({"image_column": '"jpg"'}, LABELS, None, "no image column 'jpg'"),
    ],
)
def test_a_wrong_copy_is_refused(
    changes: dict[str, str], labels: dict[str, list[int]], names: list[str] | None, message: str, tmp_path: Path
) -> None:
    write_parquet(tmp_path / "data" / "tiny", labels, names)
    dataset = open_dataset("tiny", tiny_registry(tmp_path, **changes), options(tmp_path))
    with pytest.raises(RequestError, match=message):
        [dataset.split(role) for role in ("train", "test")]


PERMUTED = ["bird", "airplane", "automobile"]


def write_named(root: Path, tested: list[str], test_names: list[str] | None) -> None:
    """Test images of the classes `tested`, numbered by `test_names`; None for labels that are strings."""
    root.mkdir(parents=True, exist_ok=True)
    trained = [NAMES[label] for label in LABELS["train"]]
    for split, images, classes, names in (("train", TRAIN, trained, NAMES), ("test", TEST, tested, test_names)):
        rows: dict[str, Any] = {"img": [{"bytes": png(image), "path": None} for image in images], "label": classes}
        table = pa.table(rows)
        if test_names is not None:
            assert names is not None
            rows["label"] = [names.index(name) for name in classes]
            features = hub_datasets.Features(
                {"img": hub_datasets.Image(), "label": hub_datasets.ClassLabel(names=names)}
            )
            table = hub_datasets.Dataset.from_dict(rows, features=features).data.table
        pq.write_table(table, root / f"{split}-00000-of-00001.parquet")


@pytest.mark.parametrize(
    ("tested", "test_names", "labels"),
    [(["bird", "automobile", "bird"], None, [2, 1, 2]), (["bird", "airplane", "automobile"], PERMUTED, [2, 0, 1])],
    ids=["strings", "permuted"],
)
def test_a_label_means_the_same_class_in_every_split(
    tested: list[str],
    test_names: list[str] | None,
    labels: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_hub_cache(tmp_path / "hub", "org/pets", lambda root: write_named(root, tested, test_names), monkeypatch)
    dataset = open_dataset("hf:org/pets", Registry(), options(tmp_path, columns=Columns("img", "label")))
    test = dataset.split("test")
    assert test.labels is not None
    assert test.labels.tolist() == labels
    assert test.class_names == dataset.class_names == tuple(NAMES)


def test_a_registered_dataset_without_names_in_its_spec(tmp_path: Path) -> None:
    write_named(tmp_path / "data" / "tiny", PERMUTED, PERMUTED)
    dataset = open_dataset("tiny", tiny_registry(tmp_path, class_names=""), options(tmp_path))
    labels = dataset.split("test").labels
    assert labels is not None
    assert labels.tolist() == [2, 0, 1]


def test_classes_that_the_training_split_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [*PERMUTED, "frog"]
    make_hub_cache(tmp_path / "hub", "org/pets", lambda root: write_named(root, PERMUTED, names), monkeypatch)
    dataset = open_dataset("hf:org/pets", Registry(), options(tmp_path, columns=Columns("img", "label")))
    with pytest.raises(RequestError, match=r"not those of the training split \('frog' is not"):
        dataset.split("test")


def test_a_split_of_several_sources(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "tiny")
    both = '{ all = { size = 9, source = ["test", "train"] }, test = { size = 3, source = "test" } }'
    dataset = open_dataset("tiny", tiny_registry(tmp_path, splits=both), options(tmp_path))
    split = dataset.split("all")
    assert split.labels is not None
    assert split.labels.tolist() == LABELS["test"] + LABELS["train"]
    order = [3, 2, 0, 8, 4]  # across both parts, and back
    images = np.concatenate([TEST, TRAIN])
    assert [decode_rgb(image).tobytes() for image in split.encoded(order)] == [images[i].tobytes() for i in order]
    assert split.locate(3) == "train-00000-of-00002.parquet, row 0"


def test_parts_of_a_split_must_fit_together(tmp_path: Path) -> None:
    write_folders(tmp_path / "data" / "tiny")
    (tmp_path / "data" / "tiny" / "val" / "bird").rename(tmp_path / "data" / "tiny" / "val" / "cat")
    both = '{ train = { size = 9, source = ["train", "val"] } }'
    with pytest.raises(RequestError, match="class folder 'cat' has no counterpart"):
        open_dataset("tiny", tiny_registry(tmp_path, splits=both), options(tmp_path)).split("train")
    names = ("a", "b")
    parts = [ArraySplit("part", TRAIN[:2], np.array([0, 1]), order) for order in (names, names[::-1])]
    with pytest.raises(RequestError, match="different class names"):
        JoinedSplit(parts)


def test_an_empty_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {"train": [0, 1, 2, 0, 1, 2], "test": []}
    make_hub_cache(tmp_path / "hub", "org/pets", lambda root: write_parquet(root, labels), monkeypatch)
    with pytest.raises(RequestError, match="the split is empty: at least one image is needed"):
        open_dataset("hf:org/pets", Registry(), options(tmp_path)).split("test")


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "tiny")
    (tmp_path / "data" / "tiny" / "test-00001-of-00002.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(RequestError, match="the test parquet files cannot be read"):
        open_dataset("tiny", tiny_registry(tmp_path), options(tmp_path)).split("test")


def test_a_damaged_row_group(tmp_path: Path, run_cli: Callable[..., Answer]) -> None:
    write_parquet(tmp_path / "data" / "tiny")
    tiny_registry(tmp_path)
    path = tmp_path / "data" / "tiny" / "train-00001-of-00002.parquet"
    content = bytearray(path.read_bytes())
    begin = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    content[begin : begin + 8] = b"\xff" * 8
    path.write_bytes(content)
    places = ("--data-root", tmp_path / "data", "--include-path", tmp_path / "registry")
    run = ("run", "--task", "spectrum", "--dataset", "tiny", "--model", "pixels")
    for command in (("datasets", "check", "tiny"), run):
        answer = run_cli(*command, *places)
        assert answer.code == 1
        assert f"{path}: row group 2 cannot be read: " in answer.error
        assert answer.error.endswith("; copy or fetch the file again")


def test_missing_data_says_where_it_looked_and_what_to_do(tmp_path: Path) -> None:
    registry = tiny_registry(tmp_path)
    with pytest.raises(MissingDataError, match=r"does not exist; expected train-\*\.parquet.*ask the publisher"):
        open_dataset("tiny", registry, options(tmp_path))
    (tmp_path / "data" / "tiny" / "junk").mkdir(parents=True)
    with pytest.raises(MissingDataError, match="holds junk, which is none of the known layouts"):
        open_dataset("tiny", registry, options(tmp_path))
    with pytest.raises(MissingDataError, match="no data root given"):
        open_dataset("tiny", registry, DataOptions(cache_dir=tmp_path, offline=True))


def test_an_incomplete_archive(tmp_path: Path) -> None:
    write_cifar(tmp_path / "data" / "tiny")
    (tmp_path / "data" / "tiny" / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(RequestError, match="incomplete: cifar-10-batches-py/data_batch_3 not found"):
        open_dataset("tiny", tiny_registry(tmp_path), options(tmp_path))


def test_folder_dataset(image_folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(f"folder:{image_folder}", Registry(), options(tmp_path))
    assert (dataset.kind, dataset.num_classes, dataset.class_names) == ("single-label", 2, ("blue", "red"))
    split = dataset.split("test")
    assert split.labels is not None
    assert split.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert split.locate(4) == "test/red/1.png"


def test_folder_problems(image_folder: Path, tmp_path: Path) -> None:
    reference, registry = f"folder:{image_folder}", Registry()
    write_image(image_folder / "test" / "unseen" / "0.png", seed=1)
    with pytest.raises(RequestError, match="'unseen' has no counterpart in the training split"):
        open_dataset(reference, registry, options(tmp_path)).split("test")
    (image_folder / "test" / "unseen" / "0.png").unlink()
    with pytest.raises(RequestError, match="unseen: no image in this class folder"):
        open_dataset(reference, registry, options(tmp_path)).split("test")
    with pytest.raises(RequestError, match="no such directory"):
        open_dataset("folder:nowhere", registry, options(tmp_path))
    (tmp_path / "half" / "train" / "a").mkdir(parents=True)
    with pytest.raises(
        RequestError, match=r"found train/, expected class folders with images under both train/ and test/"
    ):
        open_dataset(f"folder:{tmp_path / 'half'}", registry, options(tmp_path))
    (tmp_path / "void").mkdir()
    with pytest.raises(RequestError, match="no image in it"):
        open_dataset(f"folder:{tmp_path / 'void'}", registry, options(tmp_path))


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "flat" / f"{number}.jpg", seed=number)
    dataset = open_dataset(f"folder:{tmp_path / 'flat'}", Registry(), options(tmp_path))
    assert dataset.kind == "unlabelled"
    assert (len(dataset.split("all")), dataset.split("all").labels) == (3, None)


def test_hidden_folders_and_loops_add_no_image(image_folder: Path, tmp_path: Path) -> None:
    reference = f"folder:{image_folder}"
    before = open_dataset(reference, Registry(), options(tmp_path)).fingerprint
    blue = image_folder / "train" / "blue"
    for hidden in (".thumbnails", ".ipynb_checkpoints"):
        shutil.copytree(blue, blue / hidden)
    (blue / "loop").symlink_to(".", target_is_directory=True)
    (image_folder / "train" / "red").rename(tmp_path / "elsewhere")
    (image_folder / "train" / "red").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    dataset = open_dataset(reference, Registry(), options(tmp_path))
    assert dataset.fingerprint == before
    flat = open_dataset(f"folder:{image_folder / 'train'}", Registry(), options(tmp_path))
    assert sorted({flat.split("all").locate(index) for index in range(len(flat.split("all")))}) == sorted(
        f"{name}/{number}.png" for name in ("blue", "red") for number in range(6)
    )


@pytest.mark.parametrize("folder", ["train", "train/blue", "train/blue/deeper"])
def test_a_folder_that_cannot_be_listed(
    folder: str, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(image_folder / "train" / "blue" / "deeper" / "0.png", seed=1)
    listed = os.scandir

    def scandir(path: Any) -> Any:
        if str(path) == str(image_folder / folder):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(RequestError, match=rf"{folder}: cannot be read: Permission denied; make it readable"):
        open_dataset(f"folder:{image_folder}", Registry(), options(tmp_path)).split("train")


def test_a_broken_link_is_one_line(image_folder: Path, run_cli: Callable[..., Answer]) -> None:
    (image_folder / "train" / "blue" / "gone.png").symlink_to("nowhere.png")
    reference = f"folder:{image_folder}"
    message = r"train/blue/gone.png: cannot be read: No such file or directory; repair it, or remove it"
    ran = run_cli("run", "--task", "knn", "--dataset", reference, "--model", "pixels")
    assert (ran.code, message in ran.error) == (2, True), ran.err
    checked = run_cli("datasets", "check", reference, "digits")
    assert (checked.code, message in checked.error) == (1, True), checked.err
    assert "digits: ok" in checked.out


@pytest.mark.parametrize("at_revision", [False, True])
def test_hub_repository_from_the_cache(at_revision: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = make_hub_cache(tmp_path / "hub", "org/pets", lambda root: write_parquet(root / "data"), monkeypatch)
    reference = f"hf:org/pets@{commit}" if at_revision else "hf:org/pets"
    dataset = open_dataset(reference, Registry(), options(tmp_path))
    assert dataset.revision == commit
    assert (dataset.num_classes, len(dataset.split("train"))) == (3, 6)
    assert len(content(dataset, "test")) == 3


def test_hub_repository_of_image_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "prepared"))
    make_hub_cache(tmp_path / "hub", "org/files", write_folders, monkeypatch)
    choice = options(tmp_path, splits={"train": "train", "test": "validation"}, columns=Columns("image", "label"))
    dataset = open_dataset("hf:org/files", Registry(), choice)
    assert dataset.class_names == tuple(NAMES)
    assert len(content(dataset, "train")) == 6


def write_configurations(root: Path) -> None:
    """Two configurations that only the repository's card tells apart, of the same images in other order."""
    root.mkdir(parents=True)
    entries = []
    for config, images in (("one", TRAIN), ("two", TRAIN[::-1])):
        table = pa.table({"image": [{"bytes": png(image), "path": None} for image in images], "label": LABELS["train"]})
        pq.write_table(table, root / f"{config}.parquet")
        files = [f"  - {{split: {split}, path: {config}.parquet}}" for split in ("train", "test")]
        entries += [f"- config_name: {config}", "  data_files:", *files]
    (root / "README.md").write_text("\n".join(["---", "configs:", *entries, "---", ""]))


def test_the_configurations_of_a_repository_are_different_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "prepared"))
    make_hub_cache(tmp_path / "hub", "org/both", write_configurations, monkeypatch)
    one, two = (open_dataset("hf:org/both", Registry(), options(tmp_path, config=name)) for name in ("one", "two"))
    assert content(one, "train") != content(two, "train")
    assert one.fingerprint != two.fingerprint


def test_a_hub_repository_without_the_wanted_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = make_hub_cache(tmp_path / "hub", "org/pets", write_parquet, monkeypatch)
    hub = f'{{ repo = "org/pets", revision = "{commit}" }}'
    places = DataOptions(cache_dir=tmp_path / "cache")
    dataset = open_dataset("tiny", tiny_registry(tmp_path, hub=hub), places, fetch=True)
    assert (dataset.revision, len(dataset.split("train"))) == (commit, 6)
    splits = '{ train = { size = 6, source = "train" }, test = { size = 3, source = "validation" } }'
    with pytest.raises(
        MissingDataError, match=r"org/pets: no validation-\*\.parquet in it; by hand: ask the publisher"
    ):
        open_dataset("tiny", tiny_registry(tmp_path, hub=hub, splits=splits), places, fetch=True)


OWN_NAMES = 'splits = { train = "fit", test = ["first", "second"] }, image_column = "jpg", label_column = "cls"'


def write_with_own_names(root: Path) -> None:
    """The parquet files of `tiny` as a repository has them that calls everything otherwise."""
    root.mkdir(parents=True)
    parts = (("fit", TRAIN, LABELS["train"]), ("first", TEST[:1], LABELS["test"][:1]), ("second", TEST[1:], [1, 0]))
    for name, images, labels in parts:
        table = pa.table({"jpg": [{"bytes": png(image), "path": None} for image in images], "cls": labels})
        pq.write_table(table, root / f"{name}-00000-of-00001.parquet")


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_hub_repository_with_names_of_its_own(by_hand: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = make_hub_cache(tmp_path / "hub", "org/pets", lambda root: write_with_own_names(root / "data"), monkeypatch)
    registry = tiny_registry(tmp_path, hub=f'{{ repo = "org/pets", revision = "{commit}", {OWN_NAMES} }}')
    if by_hand:
        write_with_own_names(tmp_path / "data" / "tiny")
    dataset = open_dataset("tiny", registry, options(tmp_path))
    assert dataset.revision == (None if by_hand else commit)
    for role, images in (("train", TRAIN), ("test", TEST)):
        expected = sorted((label, image.tobytes()) for label, image in zip(LABELS[role], images, strict=True))
        assert content(dataset, role) == expected
    write_parquet(tmp_path / "data" / "tiny")  # every other copy keeps the dataset's own names
    assert open_dataset("tiny", registry, options(tmp_path)).sources == {"train": ("train",), "test": ("test",)}


def test_the_names_of_a_hub_repository_are_whole(tmp_path: Path) -> None:
    hub = f'repo = "org/pets", revision = "{"0" * 40}"'
    with pytest.raises(SpecError, match=r"tiny\.toml: hub\.splits: expected train, test, got test"):
        tiny_registry(tmp_path, hub=f'{{ {hub}, splits = {{ test = "val" }} }}').dataset("tiny")
    splits = '{ train = { source = ["train", "val"], validation = "val" }, test = { source = "test" } }'
    own = f'{{ {hub}, splits = {{ train = "train", test = "test" }} }}'
    with pytest.raises(SpecError, match=r"hub\.splits\.train: expected several names, the last of them of the valid"):
        tiny_registry(tmp_path, hub=own, splits=splits).dataset("tiny")
    with pytest.raises(SpecError, match=r"tiny\.toml: hub: image_column, label_column: belong to splits"):
        tiny_registry(tmp_path, hub=f'{{ {hub}, image_column = "jpg" }}').dataset("tiny")


def test_sizes_that_may_differ_are_of_copies_only(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"published_sizes: a single-label dataset has none; give its splits their size"
    ):
        tiny_registry(tmp_path, published_sizes="{ originals = 3 }").dataset("tiny")


def test_imagenet_as_its_hub_repository_names_it(tmp_path: Path) -> None:
    root = tmp_path / "data" / "imagenet-1k"
    root.mkdir(parents=True)
    with pytest.raises(
        MissingDataError, match=r"expected train-\*\.parquet, validation-\*\.parquet or train-\*\.parquet, test-\*\."
    ):
        open_dataset("imagenet-1k", Registry(), options(tmp_path))
    for name in ("train", "test"):
        table = pa.table({"jpg": [png(image) for image in TEST], "cls": [0, 1, 2]})
        pq.write_table(table, root / f"{name}-00000-of-00001.parquet")
    dataset = open_dataset("imagenet-1k", Registry(), options(tmp_path))
    assert dataset.sources == {"train": ("train",), "test": ("test",)}
    with pytest.raises(RequestError, match=r"\(train, parquet in .*found 3 images, expected 1,281,167"):
        dataset.split("train")


def test_an_unpacked_archive_has_no_revision(tmp_path: Path) -> None:
    hub = f'{{ repo = "org/pets", revision = "{"0" * 40}" }}'
    write_cifar(tmp_path / "cache" / "datasets" / "tiny")
    assert open_dataset("tiny", tiny_registry(tmp_path, hub=hub), options(tmp_path)).revision is None


def test_hub_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(MissingDataError, match="hf:org/absent is not in the hub's cache"):
        open_dataset("hf:org/absent", Registry(), options(tmp_path))
    with pytest.raises(RequestError, match="expected hf:ORG/NAME"):
        open_dataset("hf:a/b/c", Registry(), options(tmp_path))


def test_digits(tmp_path: Path) -> None:
    dataset = open_dataset("digits", Registry(), options(tmp_path))
    train, test = dataset.split("train"), dataset.split("test")
    assert (len(train), len(test)) == (1347, 450)
    # The first image of the collection is a zero whose third pixel is 5 of 16: 5 · 255 / 16 = 79.7.
    first = np.asarray(decode_rgb(train.encoded([0])[0]))
    assert first.shape == (8, 8, 3)
    assert first[0, 2].tolist() == [80, 80, 80]


def test_real_cifar10(real_data: Path, tmp_path: Path) -> None:
    dataset = open_dataset("cifar10", Registry(), DataOptions(cache_dir=tmp_path, data_root=real_data, offline=True))
    for role, count in (("train", 50_000), ("test", 10_000)):
        labels = dataset.split(role).labels
        assert labels is not None
        assert np.bincount(labels).tolist() == [count // 10] * 10
