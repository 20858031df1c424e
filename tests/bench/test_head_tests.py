"""Test sets for heads that are trained already: known numbers in each published layout, and one fit for all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from massl_bench import protocols
from massl_bench.specs.registry import Registry
from massl_bench.specs.task import TaskSpec
from tests.conftest import Answer
from tests.datasets import head_tests as copies

Cli = Callable[..., Answer]

TRAIN = {"train": 5 * copies.TRAIN_PER_CLASS, "test": 5}
FEW = {  # so that the fits take no time
    "linear": ("linear.num_c=2", "linear.log10_c_min=-3", "linear.log10_c_max=-1"),
    "few-shot": ("few-shot.shots=4", "few-shot.num_draws=2", "few-shot.headline=top1@s4"),
}


@pytest.fixture(autouse=True)
def _few_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("massl_bench.datasets.published.class_folders.subset_names", copies.SUBSETS.__getitem__)


@pytest.fixture
def measured(tmp_path: Path, run_cli: Cli) -> Callable[..., list[dict[str, Any]]]:
    """Runs tasks on small copies; returns the records."""

    def run(
        tasks: str,
        sizes: Mapping[str, Mapping[str, int]],
        *more: object,
        classes: Mapping[str, int] | None = None,
        datasets: str | None = None,
    ) -> list[dict[str, Any]]:
        of_imagenet = {name: 5 for name in sizes if name.startswith("imagenet")}
        copies.small_registry(tmp_path, sizes, {**of_imagenet, **(classes or {})})
        changes = [part for task in tasks.split(",") for change in FEW.get(task, ()) for part in ("--set", change)]
        answer = run_cli(
            *("run", "--task", tasks, "--dataset", datasets or ",".join(sizes), "--model", "pixels", "--json"),
            *("--include-path", tmp_path / "registry", "--data-root", tmp_path / "data", "--offline", *changes, *more),
        )
        assert answer.code == 0, answer.err
        return [json.loads(Path(each["path"]).read_text()) for each in json.loads(answer.out)]

    return run


def of(records: list[dict[str, Any]], dataset: str) -> list[dict[str, Any]]:
    return [record for record in records if record["identity"]["dataset"]["name"] == dataset]


def values(record: dict[str, Any], *names: str) -> list[float]:
    return [record["metrics"][name]["value"] for name in names]


def test_imagenet_v2_counts_its_folders_as_numbers(tmp_path: Path, measured: Callable[..., Any]) -> None:
    data = tmp_path / "data"
    copies.write_imagenet(data)
    # As strings "10" would come before "2": here the classes are 0 to 4, and one folder holds an image of another.
    copies.write_v2(data, "imagenet-v2", {0: [0], 1: [1], 2: [2, 3], 3: [3], 4: [4]})
    sizes = {"imagenet-1k": TRAIN, "imagenet-v2": {"test": 6}}
    _, tested = measured("knn", sizes)
    assert values(tested, "top1@20", "mean_per_class@20") == [pytest.approx(5 / 6), pytest.approx(0.9)]
    assert tested["head"]["dataset"] == "imagenet-1k"
    assert tested["head"]["num_items"] == {"train": 60}


def test_ten_comes_after_two(tmp_path: Path) -> None:
    from massl_bench.datasets.published import READERS

    shown = {number: [0] for number in range(12)}
    for name in ("imagenet-v2", "imagenet-v2-threshold0.7", "imagenet-v2-top-images"):
        copies.write_v2(tmp_path, name, shown)
        reader = READERS[name]
        root = reader.locate(tmp_path / name)
        assert root is not None
        (source,) = Registry().dataset(name).splits["test"].sources
        split = reader.read(root, source)
        assert split.labels is not None
        assert split.labels.tolist() == list(range(12))
        assert split.locate(10).endswith("/10/0.jpeg")


def test_real_takes_any_label_and_leaves_images_without_one_out(tmp_path: Path, measured: Callable[..., Any]) -> None:
    data = tmp_path / "data"
    copies.write_imagenet(data)
    # Image 1 shows class 4, …, image 5 class 0.
    (data / "imagenet-1k/real.json").write_text(json.dumps([[0, 4], [], [2], [3, 2], [0]]))
    _, *tested = measured("knn,linear", {"imagenet-1k": TRAIN, "imagenet-real": {"test": 4}})
    by_task = {record["identity"]["task"]["name"]: record for record in tested}
    knn = by_task["knn"]
    assert values(knn, "top1@20") == [0.75]  # image 4 shows class 1
    assert not any(name.startswith("mean_per_class") for name in knn["metrics"])
    assert knn["left_out"] == {"count": 1, "first": [f"val/{copies.WNIDS[3]}/ILSVRC2012_val_00000002.JPEG"]}
    assert values(by_task["linear"], "top1") == [0.75]


def test_imagenet_a_and_r_let_their_own_classes_compete(tmp_path: Path, measured: Callable[..., Any]) -> None:
    data = tmp_path / "data"
    copies.write_imagenet(data)
    # Classes 1 and 3 only. An image that shows class 0 is given one of the two: 1 or 3, and never 0.
    copies.write_wnids(data / "imagenet-a/imagenet-a", {1: [1, 1], 3: [3, 0, 1]}, ".jpg")
    (data / "imagenet-a/imagenet-a/README.txt").write_text("about")
    copies.write_wnids(data / "imagenet-r/imagenet-r", {0: [0], 4: [4, 4]}, ".jpg")
    sizes = {"imagenet-1k": TRAIN, "imagenet-a": {"test": 5}, "imagenet-r": {"test": 3}}
    records = measured("linear", sizes, classes={"imagenet-a": 2, "imagenet-r": 2})
    of = {record["identity"]["dataset"]["name"]: record for record in records}
    assert values(of["imagenet-r"], "top1") == [1.0]
    assert of["imagenet-a"]["metrics"]["top5"]["value"] == 1.0  # of two that compete, both are among five
    top1, per_class = values(of["imagenet-a"], "top1", "mean_per_class")
    right_of_3 = round(3 * (2 * per_class - 1))  # the image of class 0 is taken for 1 or for 3
    assert right_of_3 in (1, 2)
    assert top1 == pytest.approx((2 + right_of_3) / 5)
    assert of["imagenet-a"]["num_classes"] == 5


def test_sketch_takes_as_many_as_there_are(tmp_path: Path, measured: Callable[..., Any]) -> None:
    data = tmp_path / "data"
    copies.write_imagenet(data)
    copies.write_wnids(data / "imagenet-sketch/sketch", {0: [0, 0], 1: [1], 2: [0], 3: [3], 4: [4]}, ".JPEG")
    _, tested = measured("knn", {"imagenet-1k": TRAIN, "imagenet-sketch": {"test": 6}})
    assert values(tested, "top1@20", "mean_per_class@20") == [pytest.approx(5 / 6), pytest.approx(0.8)]


def test_objectnet_groups_classes_and_lets_all_compete(tmp_path: Path, measured: Callable[..., Any]) -> None:
    data = tmp_path / "data"
    copies.write_imagenet(data)
    copies.write_objectnet(data)
    records = measured("knn,linear", {"imagenet-1k": TRAIN, "objectnet": {"test": 5}}, classes={"objectnet": 2})
    for record, suffix in zip(of(records, "objectnet"), ("@20", ""), strict=True):
        # Of the cats a tabby and a tiger cat are right, and of the fish one; classes 1 and 2 are none of either.
        assert values(record, f"top1{suffix}") == [pytest.approx(3 / 5)]
        assert values(record, f"mean_per_class{suffix}") == [pytest.approx((2 / 3 + 1 / 2) / 2)]
        assert record["left_out"]["first"] == ["objectnet-1.0/images/vase/0.png"]


def test_the_red_border_is_cut_off(tmp_path: Path) -> None:
    from massl_bench.datasets import open_dataset
    from tests.datasets.test_layouts import options

    copies.write_objectnet(tmp_path / "data")
    registry = copies.small_registry(tmp_path, {"objectnet": {"test": 5}}, {"objectnet": 2})
    split = open_dataset("objectnet", registry, options(tmp_path)).split("test")
    (encoded,) = split.encoded([0])
    np.testing.assert_array_equal(np.asarray(split.decode(encoded)), copies.pattern(3, 500))


def test_imagenet_c_is_divided_by_alexnet(tmp_path: Path, measured: Callable[..., Any]) -> None:
    data = tmp_path / "data"
    copies.write_imagenet(data)
    right = (0, 1, 2, 3, 4)
    wrong = {"fog/5": (0, 1, 2, 3, 0), "fog/4": (1, 1, 2, 3, 4), "snow/1": (0, 1, 2, 4, 4), "snow/2": right}
    copies.write_imagenet_c(data, wrong)
    sizes = {"imagenet-1k": TRAIN, "imagenet-c": {"test": 75 * 5}}
    tested = of(measured("knn,linear,few-shot", sizes), "imagenet-c")
    fog, snow = 2 / 25, 1 / 25
    errors = Registry().dataset("imagenet-c").corruptions
    assert errors is not None
    assert errors.reference_errors is not None
    alexnet = errors.reference_errors
    plain, divided = (fog + snow) / 15, (fog / alexnet["fog"] + snow / alexnet["snow"]) / 15
    for record, suffix in zip(tested, ("@20", "", "@s4"), strict=True):
        assert values(record, f"top1{suffix}") == [pytest.approx(1 - plain)]
        assert values(record, f"mce_plain{suffix}", f"mce{suffix}") == [pytest.approx(plain), pytest.approx(divided)]
        assert "mean_per_class" not in record["metrics"]
    details = tested[0]["metrics"]["mce@20"]["details"]
    assert details["error_fog"] == pytest.approx(fog)
    assert details["error_frost"] == 0
    assert len(details) == 15


def test_cifar10_1_and_cifar10_c(tmp_path: Path, measured: Callable[..., Any]) -> None:
    data = tmp_path / "data"
    copies.write_cifar10(data)
    labels = (7, 3, 0, 1, 2, 4, 5, 6, 8, 9)
    copies.write_cifar10_1(data, "v6", [*labels, 2], [*labels, 3])
    copies.write_cifar10_1(data, "v4", [*labels[:8], 8, 8], labels)
    wrong = (7, 2, *labels[2:])
    copies.write_cifar10_c(data, {"fog/1": wrong, "fog/2": wrong, "contrast/5": (1, *wrong[1:])}, labels)
    sizes = {
        "cifar10": {"train": 120, "test": 10},
        "cifar10.1": {"test": 11},
        "cifar10.1-v4": {"test": 10},
        "cifar10-c": {"test": 750},
    }
    own, v6, v4, corrupted = measured("knn", sizes, classes=dict.fromkeys(sizes, 10))
    assert values(own, "top1@20") == [1.0]
    assert own["head"] is None
    assert values(v6, "top1@20") == [pytest.approx(10 / 11)]
    assert values(v4, "top1@20") == [0.9]
    plain = (2 / 50 + 2 / 50) / 15
    assert values(corrupted, "top1@20", "mce_plain@20") == [pytest.approx(1 - plain), pytest.approx(plain)]
    assert "mce@20" not in corrupted["metrics"]  # there is no published reference


def test_a_head_is_trained_once_and_the_numbers_are_those_of_a_run_of_its_own(
    tmp_path: Path, measured: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    copies.write_imagenet(data)
    copies.write_v2(data, "imagenet-v2", {label: [label, 0] for label in range(5)})
    copies.write_v2(data, "imagenet-v2-top-images", {label: [label] for label in range(5)})
    copies.write_wnids(data / "imagenet-a/imagenet-a", {1: [1, 2], 3: [3, 0]}, ".jpg")
    sizes = {
        "imagenet-v2": {"test": 10},
        "imagenet-1k": TRAIN,
        "imagenet-a": {"test": 4},
        "imagenet-v2-top-images": {"test": 5},
    }
    fits: list[str] = []
    fit = protocols.fit

    def counted(spec: TaskSpec, *rest: Any) -> Any:
        fits.append(spec.name)
        return fit(spec, *rest)

    monkeypatch.setattr(protocols, "fit", counted)
    together = measured("linear,few-shot,knn", sizes, classes={"imagenet-a": 2})
    assert sorted(fits) == ["few-shot", "linear"]  # k-NN trains nothing: its head is the bank
    assert (
        sum(record["num_extracted"] for record in together) == 60 + 10 + 5 + 4 + 5
    )  # the training images went through the model once
    keys = {record["identity"]["feature_keys"]["train"] for record in together}
    assert len(keys) == 1
    of_training = next(each for each in together if each["identity"]["dataset"]["name"] == "imagenet-1k")
    for record in together:
        name, task = record["identity"]["dataset"]["name"], record["identity"]["task"]["name"]
        places = ("--results-dir", tmp_path / "alone")
        (alone,) = measured(task, sizes, *places, classes={"imagenet-a": 2}, datasets=name)
        assert alone["metrics"] == record["metrics"], (task, name)
        assert alone["identity_sha256"] == record["identity_sha256"]
        head = record["head"]
        if name == "imagenet-1k":
            assert head is None
            continue
        assert (head["dataset"], head["fingerprint"]) == (
            "imagenet-1k",
            of_training["identity"]["dataset"]["fingerprint"],
        )
        assert ("C" in head["selected"]) == (task == "linear")
    assert len(fits) == 2 + 2 * 4


def test_blocks_are_drawn_alike_and_what_would_cut_them_is_refused(
    tmp_path: Path, run_cli: Cli, measured: Callable[..., Any]
) -> None:
    copies.write_cifar10(tmp_path / "data")
    labels = (7, 3, 0, 1, 2, 4, 5, 6, 8, 9)
    copies.write_cifar10_c(tmp_path / "data", {}, labels)
    sizes = {"cifar10": {"train": 120, "test": 10}, "cifar10-c": {"test": 750}}
    classes = dict.fromkeys(sizes, 10)
    (record,) = measured("knn", sizes, "--sample", "test=150", classes=classes, datasets="cifar10-c")
    assert record["num_items"] == {"train": 120, "test": 150}  # two images of each of the 75 blocks
    assert values(record, "top1@20") == [1.0]
    assert record["departures"][-1] == "--sample test=150"
    places = ("--include-path", tmp_path / "registry", "--data-root", tmp_path / "data", "--offline")
    run = ("run", "--dataset", "cifar10-c", *places, "--model", "pixels", "--task")
    assert "expected a multiple of 75" in run_cli(*run, "knn", "--sample", "test=100").error
    assert "--sample test=7500 draws the same images of each" in run_cli(*run, "knn", "--limit", "test=100").error
    refused = run_cli(*run, "kmeans")
    assert refused.code == 2
    assert "which kmeans does not train apart from its test; tasks that do: few-shot, knn, linear" in refused.error


def test_a_test_set_of_ones_own_groups_classes_by_name(tmp_path: Path, run_cli: Cli) -> None:
    """Even and odd digits, told by a head for ten digits: right where the predicted digit is of the same kind."""
    from massl_bench.datasets import open_dataset
    from massl_bench.records.items import read_items
    from massl_bench.records.reading import read_record
    from tests.datasets.test_layouts import options

    digits = open_dataset("digits", Registry(), options(tmp_path)).split("test")
    assert digits.labels is not None
    order = []
    for kind in ("even", "odd"):
        for row in np.flatnonzero(digits.labels % 2 == (kind == "odd")).tolist():
            pixels = np.asarray(digits.decode(digits.encoded([row])[0]))
            copies.write(tmp_path / f"data/parity/test/{kind}/{row:03}.png", pixels)
            order.append(row)
    folder = tmp_path / "own" / "tasks" / "datasets"
    folder.mkdir(parents=True)
    (folder / "parity.toml").write_text(
        'name = "parity"\nkind = "single-label"\nnum_classes = 2\nclass_names = ["even", "odd"]\nmetric = "top1"\n'
        'summary = "s"\nlicence = "CC0"\ncitation = "none"\nby_hand = "place it"\n[head]\ndataset = "digits"\n'
        'classes = { even = ["0", "2", "4", "6", "8"], odd = ["1", "3", "5", "7", "9"] }\n'
        '[splits]\ntest = { size = 450, source = "test" }\n'
    )
    answer = run_cli(
        *("run", "--task", "knn", "--dataset", "digits,parity", "--model", "pixels", "--json"),
        *("--include-path", tmp_path / "own", "--data-root", tmp_path / "data"),
    )
    assert answer.code == 0, answer.err
    whole, parity = (Path(each["path"]) for each in json.loads(answer.out))
    predicted = read_items(whole, read_record(whole)).predicted["top1@20"]
    expected = float((predicted % 2 == digits.labels % 2).mean())
    assert read_record(parity).headline.value == pytest.approx(expected)
    of_parity = read_items(parity, read_record(parity))
    np.testing.assert_array_equal(of_parity.predicted["top1@20"], predicted[order] % 2)
    wrong = (folder / "parity.toml").read_text().replace('"9"', '"nine"')
    (folder / "parity.toml").write_text(wrong)
    answer = run_cli(
        *("run", "--task", "knn", "--dataset", "parity", "--model", "pixels", "--force"),
        *("--include-path", tmp_path / "own", "--data-root", tmp_path / "data"),
    )
    assert "parity: 'nine' is not a class of its head; the head's are 0, 1, 2, 3, 4, …" in answer.error
