"""Small copies of the datasets in their own published layouts, with the traps that the real ones hold."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from massl_bench.datasets.published.voc import VOC_CLASSES
from massl_bench.specs.registry import Registry


def colour_of(name: str) -> tuple[int, int, int]:
    """A colour for each image, so that a mix-up shows."""
    red, green, blue = hashlib.md5(name.encode()).digest()[:3]
    return red, green, blue


def picture(root: Path, name: str, mode: str = "RGB") -> None:
    """Writes an image of one colour in the format of its suffix, but without loss where that can be."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (8, 8), colour_of(name)).convert(mode)
    whole: dict[str, Any] = {"quality": 100, "subsampling": 0} if path.suffix in {".jpg", ".JPEG"} else {}
    image.save(path, **whole)


def text(root: Path, name: str, *lines: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


@dataclass
class Copy:
    """What a small copy contains: by role, the files in the published order, and the labels."""

    num_classes: int
    files: dict[str, list[str]]
    labels: dict[str, list[Any]]
    class_names: tuple[str, ...] | None
    grey: frozenset[str] = field(default_factory=frozenset)
    """Images that are not stored in RGB: their colours are not compared."""


def small_registry(root: Path, name: str, sizes: dict[str, int], num_classes: int | None = None) -> Registry:
    """A registry whose `name` is the real one, with other sizes and class count, and without sources."""
    spec = Registry().dataset(name).model_dump(mode="json", exclude_none=True)
    for key in ("hub", "archives", "class_names"):
        spec.pop(key, None)
    splits = {role: {**split, "size": sizes[role]} for role, split in spec.pop("splits").items()}
    if num_classes is not None:
        spec["num_classes"] = num_classes
    lines = [f"{key} = {json.dumps(value)}" for key, value in spec.items()]
    lines += [
        f"splits.{role} = {{ {', '.join(f'{key} = {json.dumps(value)}' for key, value in split.items())} }}"
        for role, split in splits.items()
    ]
    folder = root / "registry" / "tasks" / "datasets"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text("\n".join(lines), encoding="utf-8")
    return Registry([root / "registry"])


def write_gtsrb(root: Path) -> Copy:
    def table(path: Path, rows: Sequence[tuple[str, int]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter=";")
            writer.writerow(["Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId"])
            writer.writerows([[name, 8, 8, 1, 1, 6, 6, label] for name, label in rows])

    train = []
    for label in (0, 1):
        folder = f"GTSRB/Training/{label:05}"
        names = [f"{track:05}_{frame:05}.ppm" for track, frame in ((0, 0), (0, 1), (1, 0))]
        table(root / folder / f"GT-{label:05}.csv", [(name, label) for name in names])
        train += [f"{folder}/{name}" for name in names]
    test = [f"GTSRB/Final_Test/Images/{number:05}.ppm" for number in range(3)]
    for name in (*train, *test, "GTSRB/Training/00000/unlisted.ppm"):
        picture(root, name)
    table(root / "GT-final_test.csv", [(Path(name).name, label) for name, label in zip(test, (1, 0, 1), strict=True)])
    text(root, "GTSRB/Final_Test/Images/GT-final_test.test.csv", "Filename;Width;Height", "00000.ppm;8;8")
    text(root, "GTSRB/Readme-Images.txt", "about")
    return Copy(2, {"train": train, "test": test}, {"train": [0, 0, 0, 1, 1, 1], "test": [1, 0, 1]}, None)


def write_dtd(root: Path) -> Copy:
    root = root / "dtd"
    lists = {
        "train": ["polka-dotted/polka-dotted_0002.jpg", "banded/banded_0002.jpg", "zigzagged/zigzagged_0001.jpg"],
        "val": ["zigzagged/zigzagged_0009.jpg", "banded/banded_0009.jpg", "polka-dotted/polka-dotted_0009.jpg"],
        "test": ["zigzagged/zigzagged_0003.jpg", "polka-dotted/polka-dotted_0003.jpg", "banded/banded_0003.jpg"],
    }
    for split, names in lists.items():
        text(root, f"labels/{split}1.txt", *names)
        text(root, f"labels/{split}2.txt", *reversed(names))  # another partition
        for name in names:
            picture(root, f"images/{name}")
    text(root, "labels/labels_joint_anno.txt", "banded/banded_0002.jpg banded zigzagged")
    picture(root, "images/banded/.hidden.jpg")
    files = {split: [f"images/{name}" for name in names] for split, names in lists.items()}
    return Copy(
        3,
        {"train": files["train"] + files["val"], "test": files["test"]},
        {"train": [1, 0, 2, 2, 0, 1], "test": [2, 1, 0]},
        ("banded", "polka-dotted", "zigzagged"),
    )


def write_dtd_train(root: Path) -> Copy:
    whole = write_dtd(root)
    files = {"train": whole.files["train"][:3], "test": whole.files["test"]}
    return Copy(3, files, {"train": [1, 0, 2], "test": [2, 1, 0]}, whole.class_names)


def write_oxford_pets(root: Path) -> Copy:
    # Breeds are numbered without regard to case, so that no sorting of file names gives the classes.
    trainval = ["american_bulldog_10 2 2 1", "Abyssinian_100 1 1 1", "Bengal_3 3 1 2", "Abyssinian_2 1 1 1"]
    test = ["Bengal_101 3 1 2", "american_bulldog_100 2 2 1", "Abyssinian_201 1 1 1"]
    text(root, "annotations/list.txt", "#Image CLASS-ID SPECIES BREED ID", *sorted(trainval + test))
    text(root, "annotations/trainval.txt", "#Image CLASS-ID SPECIES BREED ID", *trainval)
    text(root, "annotations/test.txt", *test)
    text(root, "annotations/trimaps/._Abyssinian_100.png", "junk")
    text(root, "images/Abyssinian_100.mat", "junk")
    picture(root, "images/Abyssinian_999.jpg")  # in no list
    files = {
        role: [f"images/{line.split()[0]}.jpg" for line in lines]
        for role, lines in (("train", trainval), ("test", test))
    }
    for name in files["train"] + files["test"]:
        picture(root, name)
    # Under the name of a JPEG file: another format, with transparency.
    odd = "images/Abyssinian_2.jpg"
    Image.new("RGBA", (8, 8), (*colour_of(odd), 255)).save(root / odd, format="png")
    return Copy(3, files, {"train": [1, 0, 2, 0], "test": [2, 1, 0]}, ("Abyssinian", "american_bulldog", "Bengal"))


def write_flowers(root: Path) -> Copy:
    labels = np.array([2, 1, 3, 3, 2, 1, 1, 2, 3, 1])
    sets = {"trnid": [3, 1, 2], "valid": [5, 6, 4], "tstid": [10, 9, 8, 7]}
    root.mkdir(parents=True)
    savemat(root / "imagelabels.mat", {"labels": labels[None].astype(np.uint8)})
    savemat(root / "setid.mat", {name: np.array([numbers], dtype=np.uint16) for name, numbers in sets.items()})
    for number in range(1, 11):
        picture(root, f"jpg/image_{number:05}.jpg")
    train, test = sets["trnid"] + sets["valid"], sets["tstid"]
    return Copy(
        3,
        {role: [f"jpg/image_{n:05}.jpg" for n in numbers] for role, numbers in (("train", train), ("test", test))},
        {"train": [2, 1, 0, 1, 0, 2], "test": [0, 2, 1, 0]},
        None,
    )


def write_flowers_train(root: Path) -> Copy:
    whole = write_flowers(root)
    files = {"train": whole.files["train"][:3], "test": whole.files["test"]}
    return Copy(3, files, {"train": [2, 1, 0], "test": whole.labels["test"]}, None)


def write_fgvc_aircraft(root: Path) -> Copy:
    root = root / "fgvc-aircraft-2013b"
    variants = ["F/A-18", "Boeing 717", "707-320"]  # neither sorted, nor single words
    lists = {"train": [2, 0, 1], "val": [1, 2, 0], "test": [0, 1, 2]}
    text(root, "data/variants.txt", *variants)
    files = {}
    for start, (split, labels) in enumerate(lists.items()):
        numbers = [f"{start}0{position:05}" for position in range(len(labels))]
        rows = [f"{number} {variants[label]}" for number, label in zip(numbers, labels, strict=True)]
        text(root, f"data/images_variant_{split}.txt", *rows)
        text(root, f"data/images_family_{split}.txt", *rows)
        files[split] = [f"data/images/{number}.jpg" for number in numbers]
        for name in files[split]:
            picture(root, name)
    return Copy(
        3,
        {"train": files["train"] + files["val"], "test": files["test"]},
        {"train": [2, 0, 1, 1, 2, 0], "test": [0, 1, 2]},
        tuple(variants),
    )


def write_stanford_cars(root: Path) -> Copy:
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012"]
    labels = {"train": [3, 1, 2, 1], "test": [2, 3, 1]}

    def annotations(path: Path, files: list[str], classes: list[int] | None) -> None:
        fields: list[tuple[str, Any]] = [("bbox_x1", object), ("fname", object)]
        rows = np.zeros((1, len(files)), dtype=[*fields, *([("class", object)] if classes else [])])
        rows["bbox_x1"][0], rows["fname"][0] = [1] * len(files), files
        if classes:
            rows["class"][0] = classes
        path.parent.mkdir(parents=True, exist_ok=True)
        savemat(path, {"annotations": rows})

    files = {role: [f"{number + 1:05}.jpg" for number in range(len(labels[role]))] for role in labels}
    annotations(root / "devkit" / "cars_train_annos.mat", files["train"], labels["train"])
    annotations(root / "devkit" / "cars_test_annos.mat", files["test"], None)
    annotations(root / "cars_test_annos_withlabels.mat", files["test"], labels["test"])
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array([names], dtype=object)})
    placed = {role: [f"cars_{role}/{name}" for name in files[role]] for role in files}
    for name in placed["train"] + placed["test"]:
        picture(root, name, mode="L" if name == "cars_train/00002.jpg" else "RGB")
    indices = {role: [label - 1 for label in values] for role, values in labels.items()}
    return Copy(3, placed, indices, tuple(names), grey=frozenset({"cars_train/00002.jpg"}))


def write_country211(root: Path) -> Copy:
    countries = ("AD", "NA", "ZW")  # NA is Namibia, not a missing value
    files: dict[str, list[str]] = {"train": [], "test": []}
    for split in ("train", "valid", "test"):
        for country in countries:
            name = f"{split}/{country}/{split}1.jpg"
            picture(root / "country211", name)
            files.setdefault(split, []).append(name)
    return Copy(
        3, {role: files[role] for role in ("train", "test")}, {"train": [0, 1, 2], "test": [0, 1, 2]}, countries
    )


def write_food101(root: Path) -> Copy:
    root = root / "food-101"
    lists = {
        "train": {"waffles": ["waffles/9", "waffles/10"], "apple_pie": ["apple_pie/7", "apple_pie/1"]},
        "test": {"apple_pie": ["apple_pie/3"], "waffles": ["waffles/2"]},
    }
    for split, content in lists.items():
        text(root, f"meta/{split}.json", json.dumps(content))
        for name in (name for names in content.values() for name in names):
            picture(root, f"images/{name}.jpg", mode="L" if name == "waffles/9" else "RGB")
    train = ["apple_pie/7", "apple_pie/1", "waffles/9", "waffles/10"]
    return Copy(
        2,
        {
            "train": [f"images/{name}.jpg" for name in train],
            "test": ["images/apple_pie/3.jpg", "images/waffles/2.jpg"],
        },
        {"train": [0, 0, 1, 1], "test": [0, 1]},
        ("apple_pie", "waffles"),
        grey=frozenset({"images/waffles/9.jpg"}),
    )


def write_eurosat(root: Path) -> Copy:
    folders = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial"]
    folders += ["Pasture", "PermanentCrop", "Residential", "River", "SeaLake"]
    train = [f"{name}_{number}.jpg" for number in (10, 2) for name in reversed(folders)]
    test = [f"{name}_7.jpg" for name in folders]
    text(root, "eurosat-train.txt", *train)
    text(root, "eurosat-val.txt", "Forest_8.jpg")
    text(root, "eurosat-test.txt", *test)
    files = {
        role: [f"2750/{name.partition('_')[0]}/{name}" for name in names]
        for role, names in (("train", train), ("test", test))
    }
    for name in (*files["train"], *files["test"], "2750/Forest/Forest_8.jpg"):
        picture(root, name)
    return Copy(10, files, {"train": [*range(9, -1, -1)] * 2, "test": [*range(10)]}, tuple(folders))


WNIDS = ("n01440764", "n01443537", "n15075141")


def write_imagenet_flat(root: Path) -> Copy:
    train = [f"train/{wnid}/{wnid}_{number}.JPEG" for wnid in WNIDS for number in (10, 9)]
    for name in train:
        # The training set holds JPEG files in CMYK and in grey, and a PNG file under a JPEG's name.
        picture(root, name, mode={train[0]: "CMYK", train[1]: "L"}.get(name, "RGB"))
    png = root / train[2]
    Image.new("RGB", (8, 8), colour_of(train[2])).save(png, format="png")
    test = [f"val/ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 5)]
    for name in test:
        picture(root, name)
    # The development kit numbers the classes in its own order, and inner nodes of the hierarchy after them.
    devkit = root / "ILSVRC2012_devkit_t12" / "data"
    devkit.mkdir(parents=True)
    rows = [(1, WNIDS[2], 0), (2, WNIDS[0], 0), (3, WNIDS[1], 0), (4, "n00001740", 3)]
    synsets = np.zeros((len(rows), 1), dtype=[("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)])
    for index, row in enumerate(rows):
        synsets[index, 0] = row
    savemat(devkit / "meta.mat", {"synsets": synsets})
    text(root, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", "1", "2", "3", "1")
    return Copy(
        3,
        {"train": sorted(train), "test": test},
        {"train": [0, 0, 1, 1, 2, 2], "test": [2, 0, 1, 2]},
        WNIDS,
        grey=frozenset(train[:2]),
    )


def write_inat2018(root: Path) -> Copy:
    categories = [{"id": number, "name": f"{number:04}", "supercategory": "Aves"} for number in (2, 0, 1)]
    files, labels = {}, {}
    for split, role, wanted in (("train", "train", [2, 0, 1, 0]), ("val", "test", [1, 2, 0])):
        names = [f"train_val2018/Aves/{label}/{split}{n}.jpg" for n, label in enumerate(wanted)]
        images = [{"id": 100 + n, "file_name": name, "width": 8, "height": 8} for n, name in enumerate(names)]
        annotations = [{"id": n, "image_id": 100 + n, "category_id": label} for n, label in enumerate(wanted)]
        content = {"images": images, "annotations": annotations[::-1], "categories": categories}
        text(root, f"{split}2018.json", json.dumps(content))
        for name in names:
            picture(root, name)
        files[role], labels[role] = names, wanted
    return Copy(3, files, labels, ("0000", "0001", "0002"))


SUBSETS = {
    "1percent": ["n15075141_9.JPEG", "n01440764_10.JPEG", "n01443537_9.JPEG"],
    "10percent": ["n01443537_10.JPEG", "n01440764_9.JPEG", "n15075141_9.JPEG", "n01440764_10.JPEG", "n01443537_9.JPEG"],
}
"""In place of SimCLR's lists."""


def write_imagenet_folders(root: Path, source: str) -> Copy:
    for wnid in WNIDS:
        for number in (9, 10, 11):  # not all are in the lists
            picture(root, f"train/{wnid}/{wnid}_{number}.JPEG")
    picture(root, "train/broken_downloads/1.JPEG")  # no class, and sorted before them
    test = [f"val/{WNIDS[label]}/ILSVRC2012_val_{number:08}.JPEG" for number, label in enumerate((2, 0, 1, 0))]
    for name in test:
        picture(root, name)
    train = [f"train/{name.partition('_')[0]}/{name}" for name in SUBSETS[source]]
    labels = {"1percent": [2, 0, 1], "10percent": [1, 0, 2, 0, 1]}[source]
    return Copy(3, {"train": train, "test": sorted(test)}, {"train": labels, "test": [0, 0, 1, 2]}, WNIDS)


STL10_COUNTS = {"train": 10, "test": 10}


def write_stl10(root: Path, *, unlabelled: bool) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = {split: rng.integers(0, 256, (count, 96, 96, 3), dtype=np.uint8) for split, count in STL10_COUNTS.items()}
    labels = {"train": [9, 0, 3, 1, 2, 4, 5, 6, 7, 8], "test": [*range(10)]}
    for split, images in pixels.items():
        (folder / f"{split}_X.bin").write_bytes(b"".join(image.transpose(2, 1, 0).tobytes() for image in images))
        (folder / f"{split}_y.bin").write_bytes(bytes(label + 1 for label in labels[split]))
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    text(folder, "class_names.txt", *names)
    text(folder, "fold_indices.txt", "0 1 2")
    if unlabelled:
        (folder / "unlabeled_X.bin").write_bytes(b"not read")
    return pixels, labels


def write_voc2007(root: Path) -> Copy:
    """Objects as (class, difficult) by image; the lists are made of them as the publisher's are."""
    root = root / "VOCdevkit" / "VOC2007"
    scenes: dict[str, dict[str, list[tuple[str, bool]]]] = {"trainval": {}, "test": {}}
    for split, shift in (("trainval", 0), ("test", 5000)):
        for number, name in enumerate(VOC_CLASSES):  # every class once
            scenes[split][f"{number + 5 + shift:06}"] = [(name, False)]
        scenes[split][f"{90 + shift:06}"] = [("dog", True), ("dog", True), ("person", False)]  # only difficult dogs
        scenes[split][f"{91 + shift:06}"] = [
            ("dog", True),
            ("dog", False),
            ("cat", True),
        ]  # a difficult dog, and another
    sets = {"trainval": [*scenes["trainval"]], "test": [*reversed(scenes["test"])]}
    sets |= {"train": sets["trainval"][::2], "val": sets["trainval"][1::2]}
    labels: dict[str, list[list[int]]] = {}
    for split, ids in sets.items():
        text(root, f"ImageSets/Main/{split}.txt", *ids)
        objects = {**scenes["trainval"], **scenes["test"]}
        rows = [[_voc_value(name, objects[image]) for name in VOC_CLASSES] for image in ids]
        for column, name in enumerate(VOC_CLASSES):
            lines = [f"{image} {row[column]:2d}" for image, row in zip(ids, rows, strict=True)]  # one or two spaces
            text(root, f"ImageSets/Main/{name}_{split}.txt", *lines)
        labels[split] = rows
    for image, found in (pair for split in scenes.values() for pair in split.items()):
        picture(root, f"JPEGImages/{image}.jpg")
        parts = (f"<object><name>{name}</name><difficult>{int(hard)}</difficult></object>" for name, hard in found)
        text(root, f"Annotations/{image}.xml", f"<annotation>{''.join(parts)}</annotation>")
    picture(root, "JPEGImages/009999.jpg")  # in no list
    files = {split: [f"JPEGImages/{image}.jpg" for image in sets[split]] for split in sets}
    return Copy(
        20,
        {"train": files["train"] + files["val"], "test": files["test"]},
        {"train": labels["train"] + labels["val"], "test": labels["test"]},
        VOC_CLASSES,
    )


def _voc_value(name: str, objects: list[tuple[str, bool]]) -> int:
    difficult = [hard for found, hard in objects if found == name]
    return -1 if not difficult else 0 if all(difficult) else 1


LANDMARK_QUERIES = [
    {"bbx": [10.2, 5, 70.7, 45.5], "easy": [0, 3], "hard": [1], "junk": [5]},
    {"bbx": [0, 20, 40, 100], "easy": [], "hard": [4, 2], "junk": []},  # never easy
]
LANDMARK_SIZES = {"database": 6, "queries": 2}
_LANDMARK_OF = {"queries": "ab", "database": "aababc"}
_SCENES = {"a": (600, 410), "b": (60, 100), "c": (90, 90)}
"""(width, height) of the pictures of each landmark: larger than any task's, smaller, and square."""


def write_landmarks(root: Path, name: str, folder: str = "jpg", **changes: Any) -> dict[str, list[str]]:
    """Writes a copy of revisited Oxford or Paris, whose pictures of a landmark are all the same; returns the names.

    Args:
        root: the dataset's directory.
        name: the dataset's.
        folder: where the pictures lie; `{}` stands for the landmark.
        changes: of the ground truth's keys.
    """
    names = {
        source: [f"place_{landmark}_{source}{number:06}" for number, landmark in enumerate(landmarks)]
        for source, landmarks in _LANDMARK_OF.items()
    }
    for image, landmark in zip([*names["queries"], *names["database"]], "".join(_LANDMARK_OF.values()), strict=True):
        width, height = _SCENES[landmark]
        blocks = np.random.default_rng(ord(landmark)).integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
        path = root / folder.format(landmark) / f"{image}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST).save(path)
    content = {"imlist": names["database"], "qimlist": names["queries"], "gnd": LANDMARK_QUERIES, **changes}
    (root / f"gnd_{name}.pkl").write_bytes(pickle.dumps(content))
    return names


COPIES: dict[str, Callable[[Path], Copy]] = {
    "gtsrb": write_gtsrb,
    "dtd": write_dtd,
    "dtd-train": write_dtd_train,
    "oxford-pets": write_oxford_pets,
    "flowers102": write_flowers,
    "flowers102-train": write_flowers_train,
    "fgvc-aircraft": write_fgvc_aircraft,
    "stanford-cars": write_stanford_cars,
    "country211": write_country211,
    "food101": write_food101,
    "eurosat": write_eurosat,
    "imagenet-1k": write_imagenet_flat,
    "imagenet-1k-1pct": partial(write_imagenet_folders, source="1percent"),
    "imagenet-1k-10pct": partial(write_imagenet_folders, source="10percent"),
    "inat2018": write_inat2018,
    "voc2007": write_voc2007,
}


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """Writes an uncompressed tar, its members in the given order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path
