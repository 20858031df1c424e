"""Small copies of the test sets for heads that are trained already, in their published layouts, with known answers.

Each class has a pattern that any encoder tells from the others, and an image may show another class than its label
says: the accuracy is then known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tomli_w
from numpy.typing import NDArray
from PIL import Image

from massl_bench.datasets.published.imagenet_tests import BENCHMARK_CORRUPTIONS, SEVERITIES
from massl_bench.specs.registry import Registry

WNIDS = ("n01440764", "n01443537", "n01484850", "n02123045", "n02123159")
SUBSETS = {"1percent": [f"{wnid}_1.JPEG" for wnid in reversed(WNIDS)]}
TRAIN_PER_CLASS = 12


def pattern(number: int, seed: int = 0) -> NDArray[np.uint8]:
    """The picture of a class, [32, 32, 3], a little different for each seed."""
    coarse = np.random.default_rng(number).integers(30, 226, (4, 4, 3))
    noise = np.random.default_rng([number, seed]).integers(-12, 13, (32, 32, 3))
    return (np.kron(coarse, np.ones((8, 8, 1), dtype=np.int64)) + noise).astype(np.uint8)


def write(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def small_registry(root: Path, sizes: Mapping[str, Mapping[str, int]], classes: Mapping[str, int]) -> Registry:
    """A registry whose named datasets are the real ones with other sizes and class counts, and without sources."""
    folder = root / "registry" / "tasks" / "datasets"
    folder.mkdir(parents=True, exist_ok=True)
    for name in sizes:
        spec = Registry().dataset(name).model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        for key in ("hub", "archives"):
            spec.pop(key, None)
        spec["num_classes"] = classes.get(name, spec["num_classes"])
        for role, split in spec["splits"].items():
            split["size"] = sizes[name][role]
        (folder / f"{name}.toml").write_text(tomli_w.dumps(spec), encoding="utf-8")
    return Registry([root / "registry"])


def write_imagenet(data: Path) -> None:
    """The training set, and the validation images as ReaL counts them: five, of classes 0, 1, 2, 3, 4."""
    for label, wnid in enumerate(WNIDS):
        for number in range(TRAIN_PER_CLASS):
            write(data / f"imagenet-1k/train/{wnid}/{wnid}_{number}.JPEG", pattern(label, number))
        # In class folders, whose order is not that of the numbers.
        write(data / f"imagenet-1k/val/{wnid}/ILSVRC2012_val_{5 - label:08}.JPEG", pattern(label, 100))


def write_v2(data: Path, name: str, shown: Mapping[int, Sequence[int]]) -> None:
    folders = {
        "imagenet-v2": "matched-frequency",
        "imagenet-v2-threshold0.7": "threshold0.7",
        "imagenet-v2-top-images": "top-images",
    }
    root = data / name / f"imagenetv2-{folders[name]}-format-val"
    for label, classes in shown.items():
        for number, each in enumerate(classes):
            write(root / str(label) / f"{number}.jpeg", pattern(each, 200 + number))


def write_wnids(root: Path, shown: Mapping[int, Sequence[int]], suffix: str) -> None:
    for label, classes in shown.items():
        for number, each in enumerate(classes):
            write(root / WNIDS[label] / f"a name {number}{suffix}", pattern(each, 300 + number))


def write_imagenet_c(data: Path, shown: Mapping[str, Sequence[int]]) -> None:
    """An image of each class in 75 blocks; they show what `shown` says of a block, else their class."""
    for name in BENCHMARK_CORRUPTIONS:
        for severity in SEVERITIES:
            for label, each in enumerate(shown.get(f"{name}/{severity}", range(len(WNIDS)))):
                write(data / f"imagenet-c/{name}/{severity}/{WNIDS[label]}/val_{label}.JPEG", pattern(each, 400))


def write_objectnet(data: Path) -> None:
    """Folders of three classes: `Cat` is two of ImageNet's, `Fish` one, and `Vase` none."""
    root = data / "objectnet" / "objectnet-1.0"
    lines = ["goldfish, Carassius", "tiger cat", "tench", "tabby, tabby cat", "great white shark"]
    number_of = {"tench": 0, "goldfish, Carassius": 1, "great white shark": 2, "tabby, tabby cat": 3, "tiger cat": 4}
    tables = {
        "folder_to_objectnet_label.json": {"a_cat": "Cat", "fish": "Fish", "vase": "Vase"},
        "objectnet_to_imagenet_1k.json": {"Fish": "tench", "Cat": "tabby, tabby cat; tiger cat"},
        "pytorch_to_imagenet_2012_id.json": {str(number_of[line]): row for row, line in enumerate(lines)},
    }
    (root / "mappings").mkdir(parents=True)
    for name, table in tables.items():
        (root / "mappings" / name).write_text(json.dumps(table))
    (root / "mappings" / "imagenet_to_label_2012_v2").write_text("".join(f"{line}\n" for line in lines))
    red = np.array([255, 0, 0], dtype=np.uint8)
    for folder, classes in {"a_cat": (3, 4, 1), "fish": (0, 2), "vase": (0,)}.items():
        for number, each in enumerate(classes):
            pixels = np.full((36, 36, 3), red)  # a border of two pixels, all that the tests see of it
            pixels[2:-2, 2:-2] = pattern(each, 500 + number)
            write(root / "images" / folder / f"{number}.png", pixels)


def cifar_rows(classes: Sequence[int], seed: int) -> NDArray[np.uint8]:
    return np.stack([pattern(each, seed + number) for number, each in enumerate(classes)])


def write_cifar10(data: Path) -> None:
    """Ten classes as class folders, which serve for any dataset."""
    names = Registry().dataset("cifar10").class_names
    assert names is not None
    for label, name in enumerate(names):
        for number in range(TRAIN_PER_CLASS):
            write(data / f"cifar10/train/{name}/{number}.png", pattern(label, number))
        write(data / f"cifar10/test/{name}/0.png", pattern(label, 100))


def write_cifar10_1(data: Path, version: str, shown: Sequence[int], labels: Sequence[int]) -> None:
    (data / "cifar10.1").mkdir(parents=True, exist_ok=True)
    np.save(data / f"cifar10.1/cifar10.1_{version}_data.npy", cifar_rows(shown, 600))
    np.save(data / f"cifar10.1/cifar10.1_{version}_labels.npy", np.array(labels, dtype=np.int32))


def write_cifar10_c(data: Path, shown: Mapping[str, Sequence[int]], labels: Sequence[int]) -> None:
    """One file a corruption: the images at severity 1, then at 2, to 5; and files of corruptions that are not read."""
    root = data / "cifar10-c" / "CIFAR-10-C"
    root.mkdir(parents=True)
    np.save(root / "labels.npy", np.array([*labels] * 5, dtype=np.uint8))
    for name in (*BENCHMARK_CORRUPTIONS, "saturate"):
        classes = [each for severity in SEVERITIES for each in shown.get(f"{name}/{severity}", labels)]
        np.save(root / f"{name}.npy", cifar_rows(classes, 700))
