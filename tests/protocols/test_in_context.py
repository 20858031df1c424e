"""In-context segmentation, against a plain implementation that loops over patches and pixels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.values import IGNORED, DenseBatch, EvaluationData
from massl_bench.datasets.published import READERS
from massl_bench.datasets.splits import corrupt_images
from massl_bench.metrics.segmentation import matched_mean_iou, pixel_counts, segmentation_scores
from massl_bench.protocols import in_context
from tests.conftest import Answer
from tests.protocols.banks import params_of

Cli = Callable[..., Answer]
CLASSES, GRID, PATCH, DIM = 5, 4, 6, 8


@dataclass
class Scenes:
    """Images of four regions, each of one class, with borders that no class is known of, and noisy features."""

    count: int
    seed: int
    plans: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        side = GRID * PATCH
        self.masks = np.zeros((self.count, side, side), dtype=np.uint8)
        for mask in self.masks:
            row, column = rng.integers(4, side - 4, 2)
            for place, piece in enumerate(
                (mask[:row, :column], mask[:row, column:], mask[row:, :column], mask[row:, column:])
            ):
                piece[:] = rng.integers(CLASSES) if place else rng.integers(1, CLASSES)
            mask[row] = IGNORED
        centres = 3 * np.random.default_rng(9).standard_normal((CLASSES, DIM))
        patches = (
            self.masks.reshape(self.count, GRID, PATCH, GRID, PATCH).swapaxes(2, 3).reshape(self.count, GRID**2, -1)
        )
        shown = np.stack([(patches == label).mean(axis=2) for label in range(CLASSES)], axis=2)
        self.features = (shown @ centres + rng.standard_normal((self.count, GRID**2, DIM))).astype(np.float32)

    def __len__(self) -> int:
        return self.count

    def dense(self, plan: Any) -> Iterator[DenseBatch]:
        self.plans.append(plan)
        for _ in range(1 if plan is None else plan.num_epochs):
            for start in range(0, self.count, 3):
                rows = slice(start, start + 3)
                yield DenseBatch(features=self.features[rows], masks=self.masks[rows])


def scenes(ignored: int | None = None) -> EvaluationData:
    dense = {"train": Scenes(10, 1), "test": Scenes(7, 2)}
    return EvaluationData(banks={}, num_classes=CLASSES, dense=dense, ignored_class=ignored)


def params(**changes: Any) -> Any:
    values = {"memory_size": 10 * GRID**2, "epochs": 1, "k": 5, **changes}
    return params_of(in_context, "in-context").model_copy(update=values)


def plain(data: EvaluationData, k: int, temperature: float) -> tuple[float, float, Any]:
    """(mIoU, matched mIoU, maps), one patch and one pixel after the other."""
    train, test = data.dense["train"], data.dense["test"]
    keys, shares = [], []
    for features, mask in zip(train.features, train.masks, strict=True):
        for place, feature in enumerate(features):
            row, column = divmod(place, GRID)
            patch = mask[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH].copy()
            patch[patch == IGNORED] = 0
            keys.append(feature / np.linalg.norm(feature))
            shares.append([(patch == label).sum() / patch.size for label in range(CLASSES)])
    keys_, shares_ = torch.tensor(np.array(keys)), torch.tensor(np.array(shares), dtype=torch.float32)
    confusion, maps = np.zeros((CLASSES, CLASSES)), []
    for features, mask in zip(test.features, test.masks, strict=True):
        taken = []
        for feature in torch.tensor(features):
            similarity = keys_ @ functional.normalize(feature, dim=0)
            nearest = similarity.topk(k)
            taken.append(torch.softmax(nearest.values / temperature, 0) @ shares_[nearest.indices])
        small = torch.stack(taken).reshape(1, GRID, GRID, CLASSES).permute(0, 3, 1, 2)
        large = functional.interpolate(small, size=mask.shape, mode="bilinear")[0].argmax(0).numpy()
        maps.append(large)
        for truth, given in zip(mask.ravel(), large.ravel(), strict=True):
            if truth not in (IGNORED, data.ignored_class):
                confusion[truth, given] += 1
    values, iou = [], np.zeros((CLASSES, CLASSES))
    for label in range(CLASSES):
        both, true, given = confusion[label, label], confusion[label].sum(), confusion[:, label].sum()
        if true:
            values.append(both / (true + given - both))
        for other in range(CLASSES):
            union = confusion[label].sum() + confusion[:, other].sum() - confusion[label, other]
            iou[label, other] = confusion[label, other] / max(union, 1)
    matched = max(sum(iou[label, order[label]] for label in range(CLASSES)) for order in permutations(range(CLASSES)))
    return float(np.mean(values)), matched / CLASSES, maps


@pytest.mark.parametrize(("k", "ignored"), [(1, None), (5, None), (30, None), (5, 0)])
def test_it_equals_a_plain_implementation(k: int, ignored: int | None) -> None:
    data = scenes(ignored)
    scores = in_context.run(data, params(k=k), np.random.default_rng(0))
    miou, matched, _ = plain(data, k, 0.02)
    assert scores["miou"].value == pytest.approx(miou, abs=1e-12)
    assert scores["miou_matched"].value == pytest.approx(matched, abs=1e-12)
    assert 0.3 < miou < 0.95
    low, high = scores["miou"].ci95
    assert low < miou < high
    details = scores["miou"].details
    assert (details["memory_patches"], details["resolution"], details["patches_of_an_image"]) == (160, 24, 16)
    assert details["memory_mb"] == round(160 * (DIM + CLASSES) * 4 / 1e6, 1)
    assert details["classes_counted"] == (CLASSES if ignored is None else CLASSES - 1)


def test_the_interval_is_that_of_resampled_images() -> None:
    data = scenes()
    scores = in_context.run(data, params(), np.random.default_rng(0))
    maps = np.stack(plain(data, 5, 0.02)[2]).astype(np.uint8)
    masks = data.dense["test"].masks
    rng, draws = np.random.default_rng(5), []
    for _ in range(400):
        rows = rng.integers(7, size=7)
        again = segmentation_scores(pixel_counts(masks[rows], maps[rows], CLASSES, IGNORED), 1, rng)
        draws.append(again["miou"].value)
    low, high = scores["miou"].ci95
    assert high - low == pytest.approx(np.subtract(*np.quantile(draws, (0.975, 0.025))), rel=0.2)


def test_the_memory_is_bounded_and_keeps_rare_classes() -> None:
    data = scenes()
    train = data.dense["train"]
    scores = in_context.run(data, params(memory_size=10 * 2 * 3 + 7, epochs=2), np.random.default_rng(0))
    assert scores["miou"].details["memory_patches"] == 60
    assert scores["miou"].details["patches_of_a_view"] == 3
    assert train.plans[0].num_epochs == 2
    assert train.plans[0].augmentation.crop_scale == (0.5, 2.0)
    # Of 15 patches of class 1 and one of class 2, that one is almost always among the two that are kept.
    shown = np.zeros((16, CLASSES), dtype=bool)
    shown[:15, 1] = shown[15, 2] = True
    rng = np.random.default_rng(0)
    kept = [15 in in_context._rare_first(shown, rng)[:2] for _ in range(200)]
    assert np.mean(kept) > 0.6  # of 2 in 16 at random, 0.125 would be


def test_a_patch_of_two_classes_has_a_share_of_each() -> None:
    mask = np.zeros((1, 4, 4), dtype=np.uint8)
    mask[0, :, :1], mask[0, 2:, 2:] = 3, IGNORED
    shares = in_context.patch_shares(DenseBatch(features=np.zeros((1, 4, 2), np.float32), masks=mask), 5)
    assert shares[0, 0].tolist() == [0.5, 0, 0, 0.5, 0]
    assert shares[0, 1].tolist() == shares[0, 3].tolist() == [1, 0, 0, 0, 0]


def test_what_it_refuses() -> None:
    with pytest.raises(RequestError, match=r"memory_size = 19 has no room for one patch of each of 20 views"):
        in_context.check_sizes(params(memory_size=19, epochs=2), {"train": 10, "test": 7})
    with pytest.raises(RequestError, match="k = 11 asked, and the memory holds 10 patches"):
        in_context.run(scenes(), params(memory_size=10, k=11), np.random.default_rng(0))
    for split in ("train", "test"):
        data = scenes()
        data.dense[split].masks[3, 2, 2] = 77
        with pytest.raises(CellError, match="a mask has the class 77, and the dataset has 5"):
            in_context.run(data, params(), np.random.default_rng(0))
    batch = DenseBatch(features=np.zeros((1, 9, 2), np.float32), masks=np.zeros((1, 10, 10), np.uint8))
    with pytest.raises(CellError, match="9 patches do not divide images of 10 × 10 pixels"):
        in_context.patch_shares(batch, 5)


def test_matching_is_for_clusters() -> None:
    confusion = np.array([[0, 10, 0], [8, 0, 2], [0, 0, 0]])
    assert matched_mean_iou(confusion) == pytest.approx((1.0 + 0.8 + 0) / 3)


def write_pair(image: Path, mask: Path, seed: int, palette: bool, classes: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = rng.integers(1, classes, 2)
    values = np.full((40, 60), left, dtype=np.uint8)
    values[:, 30:] = right
    values[:, 30] = 255 if palette else 0
    colours = np.random.default_rng(3).integers(0, 256, (256, 3), dtype=np.uint8)
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colours[values]).save(image, quality=95)
    picture = Image.fromarray(values)
    if palette:
        picture.putpalette(colours.ravel().tolist())
        assert picture.mode == "P"
    picture.save(mask)


def voc(root: Path, *, kit: bool, counts: dict[str, int]) -> None:
    """VOC2012 as the development kit has it, or as open-hummingbird-eval's copy."""
    base = root / "VOCdevkit" / "VOC2012" if kit else root
    lists, images = ("ImageSets/Segmentation", "JPEGImages") if kit else ("sets", "images")
    number = 0
    for source, count in counts.items():
        names = [f"2007_{number + index:06d}" for index in range(count)]
        folder = "SegmentationClassAug" if source == "trainaug" else "SegmentationClass"
        for name in names:
            write_pair(base / images / f"{name}.jpg", base / folder / f"{name}.png", number, source != "trainaug", 21)
            number += 1
        (base / lists).mkdir(parents=True, exist_ok=True)
        pairs = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in names]
        (base / lists / f"{source}.txt").write_text("\n".join(pairs if kit and source == "trainaug" else names) + "\n")


def ade(root: Path, counts: dict[str, int]) -> None:
    for source, count in counts.items():
        base = root / "ADEChallengeData2016"
        for index in range(count):
            name = f"ADE_{source[:5]}_{index:08d}"
            write_pair(
                base / f"images/{source}/{name}.jpg", base / f"annotations/{source}/{name}.png", index, False, 151
            )


@pytest.mark.parametrize("kit", [True, False])
def test_the_layouts_of_voc(tmp_path: Path, kit: bool) -> None:
    voc(tmp_path, kit=kit, counts={"train": 3, "val": 2, "trainaug": 4})
    reader = READERS["voc2012"]
    root = reader.locate(tmp_path)
    assert root is not None
    for source, count in (("train", 3), ("val", 2), ("trainaug", 4)):
        split = reader.read(root, source)
        assert len(split) == count
        assert len(reader.files(root, source)) == 2 * count + 1
        mask = np.asarray(split.mask(0))
        assert mask.shape == (40, 60)
        assert mask[0, 0] in range(1, 21)
        assert mask[0, 30] == (255 if source != "trainaug" else 0)
        assert np.asarray(split.decode(split.encoded([0])[0])).shape == (40, 60, 3)


def test_the_layout_of_ade20k(tmp_path: Path) -> None:
    ade(tmp_path, {"training": 3, "validation": 2})
    reader = READERS["ade20k"]
    root = reader.locate(tmp_path)
    assert root is not None
    assert [len(reader.read(root, source)) for source in ("training", "validation")] == [3, 2]
    assert np.asarray(reader.read(root, "training").mask(1))[0, 30] == 0
    next((root / "annotations/training").glob("*1.png")).unlink()
    with pytest.raises(RequestError, match=r"1 of the training images .* no counterpart .*ADE_train_00000001"):
        reader.read(root, "training")


@pytest.fixture
def small_voc(tmp_path: Path) -> tuple[str, ...]:
    """Options that name a small copy, under the registry's own layout and another name."""
    voc(tmp_path / "data" / "tiny-voc", kit=True, counts={"train": 6, "val": 4})
    spec = (Path(__file__).parents[2] / "tasks/datasets/voc2012.toml").read_text()
    spec = spec.partition("[[archives]]")[0].replace('name = "voc2012"', 'name = "tiny-voc"')
    folder = tmp_path / "more" / "tasks" / "datasets"
    folder.mkdir(parents=True)
    (folder / "tiny-voc.toml").write_text(spec.replace("1464", "6").replace("1449", "4"))
    options = ("--dataset", "tiny-voc", "--data-root", str(tmp_path / "data"), "--include-path", str(tmp_path / "more"))
    return ("run", "--task", "in-context", *options, "--offline", "--set", "in-context.memory_size=400")


def test_from_the_command_line(run_cli: Cli, golden: Path, small_voc: tuple[str, ...]) -> None:
    model = ("--model", str(golden / "official_format_checkpoint.pth"), "--img-size", "32")
    answer = run_cli(*small_voc, *model)
    assert answer.code == 0, answer.err
    (path,) = Path("results").rglob("in-context/*.json")
    record = json.loads(path.read_text())
    assert record["identity"]["model"]["pooling"] == "patch tokens after the final norm"
    assert record["num_items"] == {"train": 6, "test": 4}
    assert record["num_classes"] == 21
    miou = record["metrics"]["miou"]
    assert miou["details"]["memory_patches"] == 2 * 6 * min(33, miou["details"]["patches_of_an_image"])
    assert 0 < miou["value"] < 1
    assert "finished before" in run_cli(*small_voc, *model).out
    again = run_cli(*small_voc, *model, "--force", "--batch-size", "2")
    assert again.code == 0, again.err
    assert json.loads(path.read_text())["metrics"] == record["metrics"]


def test_networks_without_patch_tokens_are_refused_by_name(run_cli: Cli, small_voc: tuple[str, ...]) -> None:
    answer = run_cli(*small_voc, "--model", "massl-small-cifar10")
    assert answer.code == 2
    assert "model massl-small-cifar10" in answer.error
    assert "has no patch tokens" in answer.error
    answer = run_cli("run", "--task", "knn", *small_voc[3:-2], "--model", "pixels")
    assert answer.code == 2
    assert "tasks that apply: in-context" in answer.error


def test_a_damaged_mask_is_named(run_cli: Cli, golden: Path, small_voc: tuple[str, ...], tmp_path: Path) -> None:
    mask = next((tmp_path / "data/tiny-voc/VOCdevkit/VOC2012/SegmentationClass").glob("*3.png"))
    mask.write_bytes(b"no mask")
    model = ("--model", str(golden / "official_format_checkpoint.pth"), "--img-size", "32")
    answer = run_cli(*small_voc, *model)
    assert answer.code == 1
    assert "2007_000003.jpg: the mask cannot be read" in answer.err
    split = READERS["voc2012"].read(tmp_path / "data/tiny-voc/VOCdevkit/VOC2012", "train")
    assert [text.partition(":")[0] for text in corrupt_images(split)] == ["JPEGImages/2007_000003.jpg"]
