"""Copies that the suite makes: what is done to an image, and that nothing but seed and name decides it."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from massl_bench.core.errors import RequestError
from massl_bench.core.values import CopyTruth
from massl_bench.datasets import CopiesDataset, ImageSplit, corrupt_images, decode_rgb, open_dataset, with_copies
from massl_bench.datasets.alterations import StrongAlteration, crop, jpeg
from massl_bench.datasets.copies import CopiesSpec, divide
from massl_bench.datasets.images.decoding import EncodedImage
from massl_bench.datasets.splits import FileSplit
from massl_bench.specs.registry import Registry
from massl_bench.specs.toml import read_toml
from tests.datasets.test_layouts import options

COPIES = read_toml(Registry().copies["like-copydays"], CopiesSpec)
BLOCKS = (
    "strong",
    *(f"crops/{percent}" for percent in (10, 15, 20, 30, 40, 50, 60, 70, 80)),
    *(f"jpegqual/{quality}" for quality in (3, 5, 8, 10, 15, 20, 30, 50, 75)),
)


def write_scene(path: Path, seed: int, size: tuple[int, int] = (60, 48)) -> None:
    """Writes a picture of smooth coloured patches, which is still itself after a crop or JPEG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A folder of twelve pictures without classes."""
    folder = tmp_path / "scenes"
    for number in range(12):
        write_scene(folder / f"part{number % 2}" / f"{number:02}.png", number)
    return folder


def opened(folder: Path, tmp_path: Path) -> CopiesDataset:
    images = open_dataset(f"folder:{folder}", Registry(), options(tmp_path))
    return with_copies(images, "like-copydays", Registry())


def digests(split: ImageSplit) -> dict[str, str]:
    """The content of every image by its name."""
    images = [decode_rgb(encoded) for encoded in split.encoded(range(len(split)))]
    return {
        split.locate(row): hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
        for row, image in enumerate(images)
    }


class Shuffled(FileSplit):
    """The pictures of a folder in any order."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        super().__init__(folder, names, None, None)


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def test_roles_sizes_and_truth(scenes: Path, tmp_path: Path) -> None:
    dataset = opened(scenes, tmp_path)
    assert COPIES.blocks == BLOCKS
    assert dataset.kind == "copy-detection"
    sizes = {role: dataset.num_items(role) for role in dataset.sources}
    assert sizes == {"originals": 6, "queries": 6 * 19, "distractors": 6}
    originals, distractors, queries = (dataset.split(role) for role in ("originals", "distractors", "queries"))
    names = [{split.locate(row) for row in range(len(split))} for split in (originals, distractors)]
    assert names[0] | names[1] == set(names_in(scenes))
    truth = dataset.ground_truth()
    assert isinstance(truth, CopyTruth)
    for row in range(len(queries)):
        assert queries.locate(row) == f"{originals.locate(truth.original[row])} as {truth.block[row]}"
    assert truth.block.tolist() == 6 * list(BLOCKS)


def test_a_part_for_the_whitening_of_large_folders_and_a_bound_on_the_originals(scenes: Path) -> None:
    images = Shuffled(scenes, names_in(scenes))
    splits = divide(images, COPIES.model_copy(update={"whitening_from": 12, "max_originals": 4}))
    assert {role: len(split) for role, split in splits.items()} == {
        "originals": 4,
        "whitening": 3,
        "distractors": 5,
        "queries": 4 * 19,
    }


def test_nothing_but_seed_and_name_decides(scenes: Path) -> None:
    names = names_in(scenes)
    splits = divide(Shuffled(scenes, names), COPIES)
    again = divide(Shuffled(scenes, Random(1).sample(names, len(names))), COPIES)
    other = divide(Shuffled(scenes, names), COPIES.model_copy(update={"seed": 1}))
    for role in ("originals", "distractors", "queries"):
        assert digests(again[role]) == digests(splits[role]), role
    assert digests(other["originals"]) != digests(splits["originals"])
    common = digests(other["queries"]).items() & digests(splits["queries"]).items()
    assert {name.split(" as ")[1].split("/")[0] for name, _ in common} <= {"jpegqual"}  # nothing in JPEG is drawn


def test_batches_do_not_matter(scenes: Path) -> None:
    queries = divide(Shuffled(scenes, names_in(scenes)), COPIES)["queries"]
    whole = digests(queries)
    for row in (40, 3, 113):
        (encoded,) = queries.encoded([row])
        image = decode_rgb(encoded)
        alone = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
        assert whole[queries.locate(row)] == alone


def test_the_same_in_another_process(scenes: Path) -> None:
    code = (
        "import json, sys; from pathlib import Path; from massl_bench.datasets.copies import divide\n"
        "from tests.datasets.test_generated_copies import COPIES, Shuffled, digests, names_in\n"
        "folder = Path(sys.argv[1])\n"
        "splits = divide(Shuffled(folder, names_in(folder)), COPIES)\n"
        "print(json.dumps(digests(splits['queries']), sort_keys=True))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(scenes)], capture_output=True, text=True, check=True, cwd=root
    )
    here = divide(Shuffled(scenes, names_in(scenes)), COPIES)["queries"]
    assert json.loads(done.stdout) == digests(here)


def test_a_renamed_folder_gives_the_same_copies_and_fingerprint(scenes: Path, tmp_path: Path) -> None:
    before = opened(scenes, tmp_path)
    contents, fingerprint = digests(before.split("queries")), before.fingerprint
    after = opened(scenes.rename(tmp_path / "renamed"), tmp_path)
    assert digests(after.split("queries")) == contents
    assert after.fingerprint == fingerprint


def test_the_fingerprint_knows_every_number_and_image(scenes: Path, tmp_path: Path) -> None:
    dataset = opened(scenes, tmp_path)
    assert dataset.fingerprint != dataset.images.fingerprint
    assert dataset.seeded(1).fingerprint != dataset.fingerprint
    generated = dataset.generated
    assert generated["strong"]["jpeg_quality"] == {"low": 10.0, "high": 40.0}
    assert set(generated) >= {"pillow", "libjpeg", "seed", "version", "crops_kept_percent", "jpeg_qualities"}
    write_scene(scenes / "part0" / "00.png", 999)
    assert opened(scenes, tmp_path).fingerprint != dataset.fingerprint


@pytest.mark.parametrize("percent", COPIES.crops_kept_percent)
def test_crops_keep_their_part_of_the_area_and_the_aspect(percent: int) -> None:
    ramp = np.arange(300 * 400).reshape(300, 400)
    pixels = np.stack([ramp // 65536, ramp // 256 % 256, ramp % 256], axis=-1).astype(np.uint8)
    places = set()
    for seed in range(20):
        piece = crop(Image.fromarray(pixels), percent, Random(seed))
        assert piece.width * piece.height / (300 * 400) == pytest.approx(percent / 100, rel=0.01)
        assert piece.width / piece.height == pytest.approx(4 / 3, rel=0.01)
        red, green, blue = np.asarray(piece)[0, 0].astype(int)
        top, left = divmod(red * 65536 + green * 256 + blue, 400)
        expected = pixels[top : top + piece.height, left : left + piece.width]
        np.testing.assert_array_equal(np.asarray(piece), expected)  # a piece of the image, untouched
        places.add((top, left))
    assert len(places) == 20


def test_a_crop_of_a_tiny_image_keeps_a_pixel() -> None:
    assert crop(Image.new("RGB", (1, 2)), 10, Random(0)).size == (1, 1)


def test_jpeg_has_the_quality_that_its_block_says(tmp_path: Path) -> None:
    write_scene(tmp_path / "a.png", 3)
    with Image.open(tmp_path / "a.png") as image:
        for quality in COPIES.jpeg_qualities:
            content = io.BytesIO()
            image.save(content, format="JPEG", quality=quality, subsampling="4:2:0")
            expected = np.asarray(Image.open(content).convert("RGB"))
            np.testing.assert_array_equal(np.asarray(jpeg(image, quality, "4:2:0")), expected)
            np.testing.assert_array_equal(np.asarray(COPIES.alter(image, "a", f"jpegqual/{quality}")), expected)


def unaltered(**changes: Any) -> CopiesSpec:
    """The description of strong copies in which nothing is altered, but for `changes`, (low, high) by field."""
    neutral = {
        "kept_percent": 100,
        "rotation_degrees": 0,
        "blur_percent": 0,
        "brightness": 1,
        "contrast": 1,
        "saturation": 1,
        "overlay_percent": 0,
        "jpeg_quality": 100,
    }
    ranges = {name: {"low": float(value), "high": float(value)} for name, value in {**neutral, **changes}.items()}
    content = COPIES.model_dump(mode="json")
    return CopiesSpec.model_validate(
        {**content, "jpeg_subsampling": "4:4:4", "strong": {**content["strong"], **ranges}}
    )


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({}, (0.0, 2.0)),
        ({"kept_percent": 25}, None),
        ({"rotation_degrees": 20}, (10.0, 90.0)),
        ({"blur_percent": 10}, (3.0, 60.0)),
        ({"brightness": 0.5}, (20.0, 90.0)),
        ({"contrast": 0.5}, (5.0, 60.0)),
        ({"saturation": 0}, (10.0, 90.0)),
        ({"overlay_percent": 50}, (10.0, 90.0)),
        ({"jpeg_quality": 5}, (3.0, 40.0)),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_each_part_of_a_strong_copy_has_its_effect(
    tmp_path: Path, change: dict[str, float], differs: tuple[float, float] | None
) -> None:
    """Mean distance of the values from the original's, in grey levels; without any change only JPEG's rounding."""
    write_scene(tmp_path / "a.png", 4)
    with Image.open(tmp_path / "a.png") as image:
        copy = unaltered(**change).alter(image, "a", "strong")
        if differs is None:
            assert copy.size == (30, 24)
            return
        assert copy.size == image.size
        distance = np.abs(np.asarray(copy).astype(int) - np.asarray(image).astype(int)).mean()
    assert differs[0] <= distance <= differs[1]


def test_strong_copies_of_two_images_go_another_way(tmp_path: Path) -> None:
    write_scene(tmp_path / "a.png", 4)
    with Image.open(tmp_path / "a.png") as image:
        first, second = (COPIES.alter(image, name, "strong") for name in ("a", "b"))
    assert (first.size, first.tobytes()) != (second.size, second.tobytes())


def test_copies_are_made_when_they_are_decoded(scenes: Path) -> None:
    class Counted(FileSplit):
        read = 0

        def encoded(self, indices: Sequence[int]) -> list[EncodedImage]:
            Counted.read += len(indices)
            return super().encoded(indices)

    queries = divide(Counted(scenes, names_in(scenes), None, None), COPIES)["queries"]
    assert len(queries) == 6 * 19
    assert Counted.read == 0
    assert not isinstance(queries.encoded([0])[0], (bytes, Path, np.ndarray))
    assert Counted.read == 1


def test_a_damaged_original_is_named(scenes: Path) -> None:
    images = Shuffled(scenes, names_in(scenes))
    damaged = divide(images, COPIES)["originals"].locate(0)
    (scenes / damaged).write_bytes(b"no picture")
    problems = corrupt_images(divide(images, COPIES)["queries"])
    assert [problem.split(":")[0] for problem in problems] == [f"{damaged} as {block}" for block in BLOCKS]


def test_too_few_images(scenes: Path, tmp_path: Path) -> None:
    for name in names_in(scenes)[9:]:
        (scenes / name).unlink()
    with pytest.raises(RequestError, match=r"found 9 images, expected at least 10: copy detection takes some as"):
        opened(scenes, tmp_path)


def test_an_unknown_description(scenes: Path, tmp_path: Path) -> None:
    images = open_dataset(f"folder:{scenes}", Registry(), options(tmp_path))
    with pytest.raises(RequestError, match="unknown description of copies 'like-copyday'; did you mean like-copydays"):
        with_copies(images, "like-copyday", Registry())


def test_patches(tmp_path: Path) -> None:
    from sklearn.datasets import load_sample_images

    dataset = open_dataset("patches", Registry(), options(tmp_path))
    assert isinstance(dataset, CopiesDataset)
    assert {role: len(dataset.split(role)) for role in dataset.sources} == {
        "originals": 24,
        "queries": 456,
        "distractors": 24,
    }
    china, flower = load_sample_images().images
    images = dataset.images.split("all")
    assert len(images) == 2 * 4 * 6
    assert images.locate(25) == "flower.jpg, row 0, column 96"
    np.testing.assert_array_equal(np.asarray(images.encoded([25])[0]), flower[:96, 96:192])
    np.testing.assert_array_equal(np.asarray(images.encoded([23])[0]), china[288:384, 480:576])


def test_other_patches_have_another_fingerprint(tmp_path: Path) -> None:
    folder = tmp_path / "registry" / "tasks" / "datasets"
    folder.mkdir(parents=True)
    text = Registry().datasets["patches"].read_text(encoding="utf-8")
    before = open_dataset("patches", Registry(), options(tmp_path)).fingerprint
    (folder / "patches.toml").write_text(text.replace("stride = 96", "stride = 97"), encoding="utf-8")
    registry = Registry([tmp_path / "registry"])
    assert open_dataset("patches", registry, options(tmp_path)).fingerprint != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fill": [300, 0, 0]}, "less than or equal to 255"),
        ({"jpeg_quality": {"low": 40.0, "high": 10.0}}, "expected low <= high, got 40.0 and 10.0"),
    ],
)
def test_numbers_that_cannot_be(change: dict[str, object], message: str) -> None:
    strong = tomllib.loads(Registry().copies["like-copydays"].read_text())["strong"]
    with pytest.raises(ValidationError, match=message):
        StrongAlteration.model_validate({**strong, **change})
