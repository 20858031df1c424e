"""Every dataset in its own published layout: exact files, labels and order, and what is said of a wrong copy."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from massl_bench.core.errors import MissingDataError, RequestError
from massl_bench.datasets import Dataset, decode_rgb, open_dataset
from massl_bench.datasets.published.class_folders import subset_names
from massl_bench.datasets.published.voc import VOC_CLASSES
from massl_bench.features import ExtractionOptions, FeatureCache, Reporting, Wanted, bank_key, load_or_extract
from massl_bench.models import ModelOptions, open_model
from massl_bench.specs.dataset import SplitSpec
from massl_bench.specs.registry import Registry
from tests.conftest import Answer
from tests.datasets.copies import (
    COPIES,
    STL10_COUNTS,
    SUBSETS,
    WNIDS,
    Copy,
    colour_of,
    picture,
    small_registry,
    write_flowers,
    write_imagenet_folders,
    write_stl10,
)
from tests.datasets.test_layouts import options


@pytest.fixture(autouse=True)
def _short_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("massl_bench.datasets.published.class_folders.subset_names", SUBSETS.__getitem__)


def place(name: str, tmp_path: Path) -> tuple[Copy, Registry]:
    """Writes the small copy into the data root; returns it, and a registry that expects its sizes."""
    directory = Registry().dataset(name).directory or name
    copy = COPIES[name](tmp_path / "data" / directory)
    sizes = {role: len(files) for role, files in copy.files.items()}
    return copy, small_registry(tmp_path, name, sizes, copy.num_classes)


def opened(name: str, tmp_path: Path) -> tuple[Copy, Dataset]:
    copy, registry = place(name, tmp_path)
    return copy, open_dataset(name, registry, options(tmp_path))


@pytest.mark.parametrize("name", COPIES)
def test_files_labels_and_order(name: str, tmp_path: Path) -> None:
    copy, dataset = opened(name, tmp_path)
    assert dataset.layout.kind == "published"
    assert dataset.class_names == copy.class_names
    for role, files in copy.files.items():
        split = dataset.split(role)
        assert split.labels is not None
        assert split.labels.tolist() == copy.labels[role]
        assert [split.locate(index) for index in range(len(split))] == files
        for file, encoded in zip(files, split.encoded(range(len(files))), strict=True):
            image = decode_rgb(encoded)
            assert (image.mode, image.size) == ("RGB", (8, 8))
            if file not in copy.grey:
                # JPEG keeps an even colour to within rounding of the colour transform.
                assert np.abs(np.subtract(image.getpixel((3, 3)), colour_of(file))).max() <= 3, file


@pytest.mark.parametrize("name", COPIES)
def test_check_on_the_command_line(name: str, tmp_path: Path, run_cli: Callable[..., Answer]) -> None:
    copy, _ = place(name, tmp_path)
    answer = run_cli(
        "datasets", "check", name, "--include-path", tmp_path / "registry", "--data-root", tmp_path / "data"
    )
    assert answer.code == 0, answer.err
    assert f"{name}: ok; published in" in answer.out
    assert f"train {len(copy.files['train'])}, test {len(copy.files['test'])}" in answer.out


@pytest.mark.parametrize("name", COPIES)
def test_a_missing_image_is_named(name: str, tmp_path: Path) -> None:
    copy, registry = place(name, tmp_path)
    lost = copy.files["test"][0]
    next((tmp_path / "data").rglob(lost)).unlink()
    # Class folders are their own list: there it is the count, or the empty folder, that tells.
    with pytest.raises(RequestError, match=f"{lost}|found 3 images|no image in this class folder"):
        open_dataset(name, registry, options(tmp_path)).split("test")


def test_stl10(tmp_path: Path, run_cli: Callable[..., Answer]) -> None:
    pixels, labels = write_stl10(tmp_path / "data" / "stl10", unlabelled=False)
    dataset = open_dataset("stl10", small_registry(tmp_path, "stl10", STL10_COUNTS, 10), options(tmp_path))
    for role, images in pixels.items():
        split = dataset.split(role)
        assert split.labels is not None
        assert split.labels.tolist() == labels[role]
        decoded = [np.asarray(decode_rgb(image)) for image in split.encoded(range(len(split)))]
        np.testing.assert_array_equal(decoded, images)  # neither transposed nor with swapped channels
    assert dataset.class_names == Registry().dataset("stl10").class_names
    answer = run_cli(
        "datasets", "check", "stl10", "--include-path", tmp_path / "registry", "--data-root", tmp_path / "data"
    )
    assert "stl10: ok; published in" in answer.out


def test_torchvision_reads_the_same_stl10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import STL10

    monkeypatch.setattr("torchvision.datasets.STL10._check_integrity", lambda _: True)
    pixels, labels = write_stl10(tmp_path, unlabelled=True)
    theirs = [*STL10(tmp_path, split="test")]
    assert [int(label) for _, label in theirs] == labels["test"]
    np.testing.assert_array_equal([np.asarray(image) for image, _ in theirs], pixels["test"])


def test_stl10_damaged(tmp_path: Path) -> None:
    write_stl10(tmp_path / "data" / "stl10", unlabelled=True)
    registry = small_registry(tmp_path, "stl10", STL10_COUNTS, 10)
    file = tmp_path / "data" / "stl10" / "stl10_binary" / "test_X.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RequestError, match=r"test_X\.bin: found 276,479 bytes, expected 27,648 for each of the 10 lab"):
        open_dataset("stl10", registry, options(tmp_path)).split("test")


@pytest.mark.parametrize(
    ("source", "lines", "sha256", "fewest"),
    [
        ("1percent", 12_811, "71e82a48ba78252683ae334c4d019ebd5c6e855b9599c1389fbe83eb9549cf17", 12),
        ("10percent", 128_116, "6d09de11e7bdaf5b1f3b1f249b6183695f97310cdd20f0c03e7235b6b9392091", 128),
    ],
)
def test_the_lists_are_the_published_ones(source: str, lines: int, sha256: str, fewest: int) -> None:
    names = subset_names(source)
    assert hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest() == sha256
    assert len(set(names)) == len(names) == lines
    counts = Counter(name.partition("_")[0] for name in names)
    assert (len(counts), set(counts.values())) == (1000, {fewest, fewest + 1})


def test_the_smaller_list_is_a_part_of_the_larger() -> None:
    assert set(subset_names("1percent")) < set(subset_names("10percent"))


def test_imagenet_as_class_folders(tmp_path: Path) -> None:
    """The copy that the subsets share; its stray folder is an error here, and changes nothing there."""
    write_imagenet_folders(tmp_path / "data" / "imagenet-1k", "1percent")
    registry = small_registry(tmp_path, "imagenet-1k", {"train": 9, "test": 4}, 3)
    with pytest.raises(RequestError, match="found 10 images, expected 9"):
        open_dataset("imagenet-1k", registry, options(tmp_path)).split("train")
    shutil.rmtree(tmp_path / "data" / "imagenet-1k" / "train" / "broken_downloads")
    dataset = open_dataset("imagenet-1k", registry, options(tmp_path))
    labels = [dataset.split(role).labels for role in ("train", "test")]
    assert [found.tolist() for found in labels if found is not None] == [[0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 1, 2]]
    assert (dataset.layout.kind, dataset.class_names) == ("folders", WNIDS)


def test_imagenet_with_a_stray_folder_beside_the_flat_validation_images(tmp_path: Path) -> None:
    _, registry = place("imagenet-1k", tmp_path)
    picture(tmp_path / "data" / "imagenet-1k", "train/broken_downloads/1.JPEG")
    with pytest.raises(RequestError, match="'broken_downloads' has no counterpart"):
        open_dataset("imagenet-1k", registry, options(tmp_path))


def test_a_subset_is_not_read_from_parquet_files(tmp_path: Path) -> None:
    root = tmp_path / "data" / "imagenet-1k"
    root.mkdir(parents=True)
    for name in ("1percent-00000.parquet", "validation-00000.parquet"):
        (root / name).touch()
    registry = small_registry(tmp_path, "imagenet-1k-1pct", {"train": 3, "test": 4}, 3)
    with pytest.raises(MissingDataError, match=r"expected its own layout \(with train/n01440764\); next: place"):
        open_dataset("imagenet-1k-1pct", registry, options(tmp_path))


@pytest.mark.parametrize("name", ["dtd", "oxford-pets", "flowers102", "fgvc-aircraft", "food101", "gtsrb"])
def test_the_folder_that_torchvision_makes(name: str, tmp_path: Path) -> None:
    """The same files under the names that torchvision's loaders give, as a folder of the dataset's directory."""
    folder = {"dtd": "dtd", "oxford-pets": "oxford-iiit-pet", "flowers102": "flowers-102", "gtsrb": "gtsrb"}.get(
        name, ""
    )
    copy = COPIES[name](tmp_path / "data" / name / folder)
    registry = small_registry(
        tmp_path, name, {role: len(files) for role, files in copy.files.items()}, copy.num_classes
    )
    labels = open_dataset(name, registry, options(tmp_path)).split("train").labels
    assert labels is not None
    assert labels.tolist() == copy.labels["train"]


@pytest.mark.parametrize(
    ("name", "loader", "folder"),
    [
        ("gtsrb", "GTSRB", "gtsrb"),
        ("dtd", "DTD", "dtd"),
        ("oxford-pets", "OxfordIIITPet", "oxford-iiit-pet"),
        ("flowers102", "Flowers102", "flowers-102"),
        ("fgvc-aircraft", "FGVCAircraft", ""),
        ("stanford-cars", "StanfordCars", "stanford_cars"),
        ("country211", "Country211", ""),
        ("food101", "Food101", ""),
    ],
)
def test_torchvision_reads_the_same(
    name: str, loader: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The small copies are such that another implementation reads them, and it finds the same images and labels."""
    import torchvision

    monkeypatch.setattr("torchvision.datasets.Flowers102._check_integrity", lambda _: True)
    copy = COPIES[name](tmp_path / "data" / name / folder)
    sizes = {role: len(files) for role, files in copy.files.items()}
    split = open_dataset(name, small_registry(tmp_path, name, sizes, copy.num_classes), options(tmp_path)).split("test")
    theirs = [*getattr(torchvision.datasets, loader)(tmp_path / "data" / name, split="test")]
    assert split.labels is not None
    assert split.labels.tolist() == [label for _, label in theirs]
    ours = [decode_rgb(encoded).tobytes() for encoded in split.encoded(range(len(split)))]
    assert ours == [image.convert("RGB").tobytes() for image, _ in theirs]


@pytest.mark.parametrize(
    ("name", "table", "content", "message"),
    [
        (
            "gtsrb",
            "GT-final_test.csv",
            "Filename;Width\n00000.ppm;8\n",
            "GT-final_test.csv: not as publ.*KeyError",
        ),
        ("oxford-pets", "annotations/test.txt", "Abyssinian_201\n", "not as published: IndexError"),
        ("oxford-pets", "annotations/test.txt", "Siamese_2 9 1 2\n", "not as published: KeyError"),
        ("dtd", "dtd/labels/test1.txt", "", "the split is empty"),
        ("fgvc-aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt", "1 A380\n", "KeyError: 'A380'"),
        ("food101", "food-101/meta/test.json", "{", "food-101: meta/.*: not as published: JSONDecodeError"),
        ("eurosat", "eurosat-test.txt", "Lake_1.jpg\n", "KeyError: 'Lake'"),
        ("flowers102", "setid.mat", "not a table", "setid.mat: not a MATLAB file that can be read"),
        ("inat2018", "val2018.json", '{"images": [{"id": 1}], "annotations": [], "categories": []}', "KeyError"),
        (
            "imagenet-1k",
            "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
            "1",
            "and 1 labels",
        ),
    ],
)
def test_a_damaged_table(name: str, table: str, content: str, message: str, tmp_path: Path) -> None:
    _, registry = place(name, tmp_path)
    path = tmp_path / "data" / name / table
    assert path.is_file()
    path.write_text(content)
    with pytest.raises(RequestError, match=message):
        open_dataset(name, registry, options(tmp_path)).split("test")


@pytest.mark.parametrize("outside", ["{}/secret.jpg", "../../secret.jpg", "train_val2018/../../../secret.jpg"])
def test_an_image_outside_the_dataset_is_refused(outside: str, tmp_path: Path) -> None:
    copy, registry = place("inat2018", tmp_path)
    shutil.copy(tmp_path / "data" / "inat2018" / copy.files["test"][0], tmp_path / "secret.jpg")
    table = tmp_path / "data" / "inat2018" / "val2018.json"
    table.write_text(table.read_text().replace(copy.files["test"][1], outside.format(tmp_path)))
    with pytest.raises(
        RequestError, match=r"val2018\.json: not as published: it names '.*secret\.jpg', and images lie"
    ):
        open_dataset("inat2018", registry, options(tmp_path))


def test_missing_tables(tmp_path: Path) -> None:
    _, registry = place("stanford-cars", tmp_path)
    labels = tmp_path / "data" / "stanford-cars" / "cars_test_annos_withlabels.mat"
    moved = labels.rename(labels.parent / "devkit" / labels.name)  # where some copies have it
    assert len(open_dataset("stanford-cars", registry, options(tmp_path)).split("test")) == 3
    moved.unlink()
    with pytest.raises(RequestError, match=r"cars_test_annos\.mat of the devkit has no labels"):
        open_dataset("stanford-cars", registry, options(tmp_path))
    _, registry = place("eurosat", tmp_path)
    (tmp_path / "data" / "eurosat" / "eurosat-train.txt").unlink()
    with pytest.raises(RequestError, match=r"incomplete: eurosat-train\.txt not found"):
        open_dataset("eurosat", registry, options(tmp_path))


def test_many_missing_images_are_counted(tmp_path: Path) -> None:
    copy, registry = place("eurosat", tmp_path)
    shutil.rmtree(tmp_path / "data" / "eurosat" / "2750" / "River")
    for name in copy.files["train"][:6]:
        (tmp_path / "data" / "eurosat" / name).unlink(missing_ok=True)
    with pytest.raises(RequestError, match=r"incomplete: (\S+, ){4}\S+ and 3 more not found"):
        open_dataset("eurosat", registry, options(tmp_path))


def test_voc2007_keeps_what_is_only_difficult(tmp_path: Path) -> None:
    _, dataset = opened("voc2007", tmp_path)
    labels = dataset.split("train").labels
    assert labels is not None
    assert (labels.dtype, labels.shape) == (np.int8, (22, 20))
    dog, cat, person = (VOC_CLASSES.index(name) for name in ("dog", "cat", "person"))
    # Images 20 and 21 of trainval: the last of train, and the last of val.
    assert labels[10, [dog, cat, person]].tolist() == [0, -1, 1]
    assert labels[21, [dog, cat, person]].tolist() == [1, 0, -1]
    assert np.count_nonzero(labels == 0) == 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("005016  1", "005016  2", "test.txt.*: not as published: KeyError: '2'"),
        ("005016  1", "", "KeyError: '005016'"),
        ("005016  1", "005016 -1", "found 19 classes with an image, expected 20"),
    ],
)
def test_voc2007_with_a_wrong_list(old: str, new: str, message: str, tmp_path: Path) -> None:
    _, registry = place("voc2007", tmp_path)
    path = tmp_path / "data" / "voc2007" / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "dog_test.txt"
    content = path.read_text().replace("005091  1", "005091 -1")
    assert old in content
    path.write_text(content.replace(old, new))
    with pytest.raises(RequestError, match=message):
        open_dataset("voc2007", registry, options(tmp_path)).split("test")


def test_voc2007_without_the_test_archive(tmp_path: Path) -> None:
    _, registry = place("voc2007", tmp_path)
    for path in (tmp_path / "data").rglob("*_test.txt"):
        path.unlink()
    with pytest.raises(RequestError, match=r"incomplete: ImageSets/Main/aeroplane_test\.txt, .* and 15 more not found"):
        open_dataset("voc2007", registry, options(tmp_path))


def test_labels_of_the_wrong_kind(tmp_path: Path) -> None:
    copy = write_flowers(tmp_path / "data" / "flowers102")
    small_registry(tmp_path, "flowers102", {role: len(files) for role, files in copy.files.items()}, 3)
    spec = tmp_path / "registry" / "tasks" / "datasets" / "flowers102.toml"
    spec.write_text(spec.read_text().replace("single-label", "multi-label"))
    with pytest.raises(RequestError, match=r"labels of shape \[6\], expected \[N, 3\] for a multi-label dataset"):
        open_dataset("flowers102", Registry([tmp_path / "registry"]), options(tmp_path)).split("train")


@pytest.mark.parametrize(
    ("limit", "damaged", "expected"),
    [(None, [], 11), (11, [], None), (12, [], 11), (None, [3, 10, 15], 9), (None, list(range(11, 22)), None)],
)
def test_the_validation_part_of_a_bank(
    limit: int | None, damaged: list[int], expected: int | None, tmp_path: Path
) -> None:
    copy, registry = place("voc2007", tmp_path)
    root = tmp_path / "data" / "voc2007" / "VOCdevkit" / "VOC2007"
    for index in damaged:
        (root / copy.files["train"][index]).write_bytes(b"")
    dataset = open_dataset("voc2007", registry, options(tmp_path))
    model = open_model("pixels", Registry(), ModelOptions(cache_dir=tmp_path))
    chosen = ExtractionOptions(skip_corrupt=True)
    for role, first in (("train", expected), ("test", None)):
        key = bank_key(model.card, model.card.preprocessing, dataset, role, limit, chosen)
        bank = load_or_extract(
            FeatureCache(tmp_path), Wanted(key, lambda: model.encoder("cpu"), dataset), chosen, Reporting()
        )
        assert bank.validation_from == first
        again, _ = FeatureCache(tmp_path).read(key)
        assert again is not None
        assert again.validation_from == first


# check_sizes cannot know of the validation part, and asks for what a random share needs.
SMALL = ("--set", "linear.validation_share=0.5")


def test_linear_selects_on_the_validation_part(tmp_path: Path, run_cli: Callable[..., Answer]) -> None:
    place("dtd", tmp_path)
    places = ("--include-path", tmp_path / "registry", "--data-root", tmp_path / "data")
    answer = run_cli("run", "--task", "linear", "--dataset", "dtd", "--model", "pixels", *places, *SMALL)
    assert answer.code == 0, answer.err
    (path,) = Path("results/pixels/linear").glob("*.json")
    record = json.loads(path.read_text())
    assert record["selection_split"] == "val, the last 3 of 6 train"


def test_a_validation_part_is_the_last_of_several_sources() -> None:
    for source in ("val", ("val", "train")):
        with pytest.raises(ValidationError, match="expected the last of several sources"):
            SplitSpec(size=3, source=source, validation="val")


def test_multi_label_features(tmp_path: Path) -> None:
    copy, dataset = opened("voc2007", tmp_path)
    model = open_model("pixels", Registry(), ModelOptions(cache_dir=tmp_path))
    chosen = ExtractionOptions()
    key = bank_key(model.card, model.card.preprocessing, dataset, "test", None, chosen)
    bank = load_or_extract(
        FeatureCache(tmp_path), Wanted(key, lambda: model.encoder("cpu"), dataset), chosen, Reporting()
    )
    assert bank.labels is not None
    assert bank.labels.dtype == np.int8
    assert bank.labels.tolist() == copy.labels["test"]
    assert (bank.num_classes, bank.class_names) == (20, VOC_CLASSES)


def test_a_single_label_task_on_a_multi_label_dataset(tmp_path: Path, run_cli: Callable[..., Answer]) -> None:
    place("voc2007", tmp_path)
    places = ("--include-path", tmp_path / "registry", "--data-root", tmp_path / "data")
    answer = run_cli("run", "--task", "knn", "--dataset", "voc2007", "--model", "pixels", *places)
    assert answer.code == 2
    assert "task knn needs a single-label dataset, and voc2007 is multi-label; tasks that apply:" in answer.error


def test_an_incomplete_copy_fails_its_cell_of_a_suite_only(tmp_path: Path, run_cli: Callable[..., Answer]) -> None:
    copy, _ = place("food101", tmp_path)
    (tmp_path / "data" / "food101" / "food-101" / copy.files["test"][0]).unlink()
    suites = tmp_path / "registry" / "tasks" / "suites"
    suites.mkdir()
    cells = ", ".join(f'{{ task = "knn", dataset = "{name}" }}' for name in ("food101", "digits"))
    (suites / "two.toml").write_text(f'name = "two"\nsummary = "s"\ncells = [{cells}]\n')
    places = ("--include-path", tmp_path / "registry", "--data-root", tmp_path / "data", "--offline")
    answer = run_cli("run", "--suite", "two", "--model", "pixels", *places, "--results-dir", tmp_path / "results")
    assert answer.code == 1, answer.err
    assert "incomplete: images/apple_pie/3.jpg not found" in answer.error
    assert [path.name for path in (tmp_path / "results").rglob("*.json")] == ["digits.json"]
    alone = run_cli("run", "--task", "knn", "--dataset", "food101", "--model", "pixels", *places)
    assert alone.code == 2
    assert "incomplete: images/apple_pie/3.jpg not found" in alone.error


@pytest.mark.parametrize(
    ("name", "said"),
    {
        "gtsrb": "39,209 images: a different dataset",
        "flowers102": "re-splits of 7,169 + 1,020",
        "dtd": "train alone (1,880), which is dtd-train",
        "voc2007": "few-shot-svm counts them as absent",
        "eurosat": "the publisher defines no split",
        "roxford5k": "blurred faces",
        "rparis6k": "the one million distractors (R1M) are not a part",
        "imagenet-1k": "which mteb's copy calls test",
        "food101": "call the official test images validation",
        "country211": "train + valid (42,200)",
        "copydays": "no list was ever published",
    }.items(),
)
def test_info_tells_what_must_be_known_to_compare(name: str, said: str, run_cli: Callable[..., Answer]) -> None:
    shown = run_cli("info", name).out
    (notes,) = [line for line in shown.splitlines() if line.startswith("notes: ")]
    assert said in notes
    assert not [line for line in shown.splitlines() if line.endswith((": ", ": False"))]


def test_the_registry_knows_every_dataset(run_cli: Callable[..., Answer]) -> None:
    listed = {row["name"] for row in json.loads(run_cli("list", "datasets", "--json").out)}
    assert listed >= {*COPIES, "stl10", "cifar10", "cifar100", "digits"}
    shown = run_cli("info", "flowers102").out
    assert "splits.train.source: train, validation" in shown
    assert "hub.revision: 06fcc9a13ee3f84cc7f36fa0eef10df2c7f8750f" in shown
    assert "metric, in words: mean per class, as Kornblith et al." in shown
    assert "optional" not in shown
    for name in listed:
        assert run_cli("info", name).code == 0
