"""Two measurements that differ in what can move a number have two identities; whatever else differs, they have one."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from massl_bench.bench.planned import ImageCell
from massl_bench.bench.planner import Planner
from massl_bench.bench.request import RunRequest
from massl_bench.core.model_settings import FeatureName, ModelSettings, PreprocessingChange
from massl_bench.core.settings import ClassGem, LastBlocks, Precision, exact
from massl_bench.datasets import DataOptions
from massl_bench.features.banks import Reporting
from massl_bench.features.options import ExtractionOptions
from massl_bench.models.identity import network_sha256, tensors_sha256
from massl_bench.records.record import Identity
from massl_bench.specs.registry import Registry
from tests.models.mutations import small_vit
from tests.models.published import write_legacy, write_zip

CLASSES, ITEMS = "ab", 4


@dataclass(frozen=True)
class Measured:
    """What can move a number; two values of each that are two measurements."""

    weights: str = "one"
    twin: str | None = None
    num_heads: int = 1
    img_size: int | None = None
    pooling: FeatureName | None = None
    resize: int | None = None
    resize_mode: str | None = None
    crop: int | None = None
    interpolation: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    images: str = "one"
    limit: int | None = None
    sample: int | None = None
    sample_seed: int = 0
    task: str = "knn"
    parameter: int = 3
    seed: int | None = None
    precision: Precision = "fp32"


OTHERS: dict[str, list[Any]] = {
    "weights": ["next"],
    "twin": ["student"],
    "num_heads": [2, 4],
    "img_size": [12],
    "pooling": ["avg", "token-before-norm"],
    "resize": [9],
    "resize_mode": ["squash", "longest"],
    "crop": [6],
    "interpolation": ["nearest", "bilinear"],
    "mean": [(0.485, 0.456, 0.4060001)],
    "std": [(0.229, 0.224, 0.2250001)],
    "images": ["pixel", "label"],
    "limit": [7],
    "sample": [4],
    "task": ["linear"],
    "parameter": [2],
    "seed": [5],
    "precision": ["bf16"],
}
"""Each beside its default; of a sample's seed below."""


@dataclass(frozen=True)
class How:
    """What moves no number: where things lie, how they are packed, with what they are computed."""

    folder: str = "here"
    container: str = "zip"
    batch_size: int | None = None
    num_workers: int | None = None
    processes: int | None = None
    memory: int | None = None
    cache: str = "cache"
    results: str = "results"
    force: bool = False


measurements = st.builds(
    Measured, **{name: st.sampled_from([getattr(Measured(), name), *others]) for name, others in OTHERS.items()}
)
hows = st.builds(
    How,
    folder=st.sampled_from(["here", "there/deeper"]),
    container=st.sampled_from(["zip", "legacy", "safetensors"]),
    batch_size=st.sampled_from([None, 3]),
    num_workers=st.sampled_from([None, 0, 1]),
    processes=st.sampled_from([None, 2]),
    memory=st.sampled_from([None, 1 << 30]),
    cache=st.sampled_from(["cache", "other cache"]),
    results=st.sampled_from(["results", "other results"]),
    force=st.booleans(),
)


@pytest.fixture(scope="module")
def places() -> Iterator[Path]:
    """Two folders with the same files: weights in three containers, images of three kinds."""
    with tempfile.TemporaryDirectory() as name:
        for folder in ("here", "there/deeper"):
            place = Path(name) / folder
            place.mkdir(parents=True)
            for weights in ("one", "next"):
                _write_weights(place, weights)
            for images in ("one", "pixel", "label"):
                _write_images(place / f"images {images}", images)
        yield Path(name)


def _write_weights(place: Path, which: str) -> None:
    teacher = small_vit()
    if which == "next":  # the smallest change of the last value
        values = teacher["norm.bias"]
        values[-1] = torch.nextafter(values[-1], torch.tensor(9.0))
    student = {name: tensor + 1 for name, tensor in teacher.items()}
    trees = {
        key: {f"backbone.{name}": tensor for name, tensor in tensors.items()}
        for key, tensors in (("teacher", teacher), ("student", student))
    }
    write_zip(trees, place / f"{which} zip.pth")
    write_legacy(trees, place / f"{which} legacy.pth")
    for key, tensors in (("None", teacher), ("student", student)):
        save_file(tensors, place / f"{which} {key}.safetensors")


def _write_images(folder: Path, which: str) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in CLASSES:
            (folder / split / label).mkdir(parents=True)
            for number in range(ITEMS):
                pixels = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
                if which == "pixel" and (split, label, number) == ("test", "b", 3):
                    pixels[0, 0, 0] ^= 1
                Image.fromarray(pixels).save(folder / split / label / f"{label}{number}.png")
    if which == "label":
        shutil.move(folder / "test/b/b3.png", folder / "test/a/b3.png")


def identity_of(what: Measured, how: How, root: Path) -> Identity:
    """Returns the identity of a measurement, as a run finds it before it computes anything."""
    place = root / how.folder
    change = {name: getattr(what, name) for name in PreprocessingChange.model_fields}
    file = f"{what.weights} {how.container}.pth"
    if how.container == "safetensors":
        file = f"{what.weights} {what.twin}.safetensors"
    settings_ = ModelSettings(
        num_heads=what.num_heads,
        checkpoint_key=what.twin if how.container != "safetensors" else None,
        img_size=what.img_size,
        pooling=what.pooling,
        preprocessing=PreprocessingChange(**change),
    )
    parameters: dict[str, dict[str, Any]] = {
        "knn": {"k": [what.parameter], "headline": f"top1@{what.parameter}"},
        "linear": {"max_iterations": what.parameter, "validation_share": 0.5},
    }
    request = RunRequest(
        cells=[(what.task, f"folder:{place / f'images {what.images}'}")],
        models=[str(place / file)],
        overrides={what.task: parameters[what.task]},
        seed=what.seed,
        limit={"test": what.limit} if what.limit is not None else {},
        device="cpu",
        processes=how.processes,
        memory=how.memory,
        data=DataOptions(
            cache_dir=root / how.cache,
            sample={"train": what.sample} if what.sample is not None else {},
            sample_seed=what.sample_seed,
        ),
        extraction=ExtractionOptions(precision=what.precision, batch_size=how.batch_size, num_workers=how.num_workers),
        results_dir=root / how.results,
        settings=settings_,
        force=how.force,
    )
    planner = Planner(request, Registry(), Reporting())
    (cell,) = planner.plan()
    assert isinstance(cell, ImageCell), getattr(cell, "problem", None)
    return planner.identity(cell, {})


def plainly(what: Measured) -> Measured:
    """Returns a measurement without what others of its settings replace."""
    return replace(what, img_size=None) if what.resize is not None and what.crop is not None else what


def check(one: Measured, other: Measured, how: How, also: How, root: Path) -> None:
    one, other = plainly(one), plainly(other)
    first, second = identity_of(one, how, root), identity_of(other, also, root)
    assert (first.digest == second.digest) == (one == other)
    moves_features = replace(one, task="", parameter=0, seed=None) != replace(other, task="", parameter=0, seed=None)
    if moves_features:
        assert first.feature_keys != second.feature_keys
    else:
        assert first.feature_keys == second.feature_keys


@pytest.mark.parametrize("name", OTHERS)
def test_each_alone_is_another_measurement(name: str, places: Path) -> None:
    for value in OTHERS[name]:
        check(Measured(), replace(Measured(), **{name: value}), How(), How(), places)


def test_the_seed_of_a_sample(places: Path) -> None:
    check(Measured(sample=4), Measured(sample=4, sample_seed=1), How(), How(), places)


@settings(max_examples=30)
@given(measurements, measurements, hows, hows)
def test_identities_are_equal_where_measurements_are(
    places: Path, one: Measured, other: Measured, how: How, also: How
) -> None:
    check(one, one, how, also, places)
    check(one, other, how, also, places)


def test_where_tensors_lie_and_in_which_order_is_no_part_of_what_they_are() -> None:
    """What a device or a kernel changes of a network that was moved: strides, layouts, places in memory."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)).eval()
    expected = tensors_sha256(network), network_sha256(network)
    moved = copy.deepcopy(network).to(memory_format=torch.channels_last)
    for parameter in moved.parameters():
        space = torch.empty(parameter.numel() + 3)[3:].view(parameter.shape)
        parameter.data = space.copy_(parameter.data) if parameter.ndim != 2 else space.T.contiguous().T.copy_(parameter)
    assert (tensors_sha256(moved), network_sha256(moved)) == expected


def test_every_part_of_a_measurement_is_tried() -> None:
    assert {field.name for field in fields(Measured)} == {*OTHERS, "sample_seed"}
    assert set(ModelSettings.model_fields) - {"arch", "checkpoint_key", "preprocessing"} <= set(OTHERS)
    assert set(PreprocessingChange.model_fields) <= set(OTHERS)


numbers = st.floats(0.001, 100, allow_subnormal=False)


@given(numbers, numbers)
@example(3.0, 3.0000001)
def test_words_of_a_feature_say_its_numbers_exactly(one: float, other: float) -> None:
    assert (exact(one) == exact(other)) == (one == other)
    assert float(exact(one)) == one
    words = {ClassGem(kind="class-gem", exponent=value, floor=1e-6).describe() for value in (one, other)}
    assert len(words) == len({one, other})


def test_words_of_pooling_are_as_they_were() -> None:
    """They are in the keys of banks: other words would be other banks."""
    words = "class token and GeM (exponent 4, values from 1e-06) of the patch tokens, after the final norm"
    assert ClassGem(kind="class-gem", exponent=4.0, floor=1e-6).describe() == words
    assert LastBlocks(kind="last-blocks", num_blocks=4, wide=768).num_blocks == 4
