"""The fingerprint of an encoder: the same on every machine, another one for every other encoder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import massl_bench as mb
from massl_bench.core.errors import CellError
from massl_bench.core.fingerprint import TOLERANCE, EncoderFingerprint, ImageFeature
from massl_bench.core.settings import own_size
from massl_bench.features.fingerprint import IMAGES, NAMES, fingerprint_of
from massl_bench.models.encoder import Encoder
from massl_bench.records.reading import read_record
from tests.conftest import Answer
from tests.made_records import edit

Cli = Callable[..., Answer]


def pattern(name: str) -> np.ndarray[Any, Any]:
    """Returns what the image was made of, [H, W, 3]: whole numbers alone."""
    if name == "stripes":
        y, x = np.mgrid[:300, :400]
        rings = ((x - 140) ** 2 + (y - 170) ** 2) // 1600
        return np.stack([rings * 37 % 256, (2 * x + 3 * y) // 90 * 53 % 256, x // 5 * 3 % 256], axis=-1)
    if name == "blocks":
        pixels = np.full((160, 96, 3), 230)
        for n in range(40):
            top, left = n * 67 % 150, n * 41 % 86
            area = np.s_[top : top + 8 + n * 13 % 40, left : left + 6 + n * 29 % 30]
            pixels[area] = (n * 97 % 256, n * 59 % 256, n * 151 % 256)
        return pixels
    y, x, c = np.mgrid[:40, :40, :3]
    mixed = (x * 374761393 + y * 668265263 + c * 2147483647) % 2**32
    mixed = (mixed ^ (mixed >> 13)) * 1274126177 % 2**32
    return (mixed ^ (mixed >> 16)) % 256


@pytest.mark.parametrize("name", NAMES)
def test_the_images_are_small_files_of_known_pixels(name: str) -> None:
    file = IMAGES / f"{name}.png"
    assert file.stat().st_size < 15_000
    with Image.open(file) as image:
        assert np.array_equal(np.asarray(image), pattern(name))


def test_the_numbers_are_those_of_the_features() -> None:
    encoder = mb.load_encoder("massl-small-cifar10")
    found = fingerprint_of(encoder)
    image = Image.open(IMAGES / "stripes.png")
    resized = image.resize((42, 32), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(resized.crop((5, 0, 37, 32)))).permute(2, 0, 1)
    feature = encoder(encoder.normalise(pixels[None]))[0]
    told = found.images[2]
    assert told.image == "stripes"
    assert told.norm == pytest.approx(float(feature.norm()), rel=1e-6)
    assert told.mean == pytest.approx(float(feature.mean()), abs=2e-6)
    assert told.std == pytest.approx(float(feature.std(correction=0)), abs=2e-6)
    assert told.values == pytest.approx(feature[:: 192 // 8].tolist(), abs=2e-6)
    # The bundled weights, as anybody has them.
    assert (found.weights, found.embed_dim) == ("d8847af78b2c", 192)
    assert [each.norm for each in found.images] == pytest.approx([6.85712, 10.8508, 6.82160], rel=1e-5)


@pytest.mark.parametrize("model", ["massl-small-cifar10", "random:vit_tiny_patch16_224"])
def test_another_arithmetic_is_no_other_encoder(model: str) -> None:
    """float64, and convolutions without oneDNN: far more apart than two processors."""
    encoder = mb.load_encoder(model)
    found = fingerprint_of(encoder)
    with torch.backends.mkldnn.flags(enabled=False):
        assert found.differences(fingerprint_of(encoder)) == ()
    network = encoder.backbone.double()

    class InDouble(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return network(images.double())

    exact = fingerprint_of(Encoder(InDouble(), encoder.card))
    assert found.differences(exact) == ()


class Colours(nn.Module):
    """Mean colours of an image's parts, under weights."""

    def __init__(self, weight: float = 1.0, power: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.power = power

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (nn.functional.adaptive_avg_pool2d(images, 3).flatten(1) * self.weight).abs() ** self.power


def made(weight: float = 1.0, power: float = 1.0, side: int = 64) -> EncoderFingerprint:
    return fingerprint_of(Encoder.from_module(Colours(weight, power), name="colours", transform=own_size(side)))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"weight": 1.001}, "weights"), ({"power": 1.001}, "network"), ({"side": 65}, "preprocessing")],
)
def test_what_differs_is_named(change: dict[str, Any], named: str) -> None:
    other = made(**change)
    first, *numbers = made().differences(other)
    assert first.startswith(f"fingerprint.{named}: recorded ")
    assert numbers
    assert all(text.startswith("fingerprint.images.") for text in numbers)
    assert made().differences(made()) == ()


numbers = st.floats(-1e6, 1e6)


@given(st.lists(numbers, min_size=1, max_size=8), st.floats(-4, 4), st.integers(0, 7))
def test_the_tolerance_is_in_units_of_the_feature(values: list[float], change: float, place: int) -> None:
    place %= len(values)
    norm = max(math.sqrt(sum(value**2 for value in values)), 1e-3)

    def of(values: list[float]) -> EncoderFingerprint:
        image = ImageFeature(image="blocks", norm=norm, mean=0.0, std=0.0, values=tuple(values))
        return EncoderFingerprint(weights="w", network="n", preprocessing="p", embed_dim=len(values), images=(image,))

    unit = TOLERANCE * norm / math.sqrt(len(values))
    moved = [value + change * unit if number == place else value for number, value in enumerate(values)]
    if abs(abs(change) - 1) > 1e-3:
        expected = 1 if abs(change) > 1 else 0
        assert len(of(values).differences(of(moved))) == expected


def test_info_shows_it_and_prints_it_alone(run_cli: Cli, golden: Path) -> None:
    model = golden / "official_format_checkpoint.pth"
    alone = run_cli("info", model, "--fingerprint")
    assert (alone.code, alone.err) == (0, "")
    head, columns, *rows, advice = alone.out.splitlines()
    assert head.startswith("fingerprint of official_format_checkpoint-")
    assert columns.split() == ["image", "norm", "mean", "std", *(f"[{place}]" for place in range(0, 64, 8))]
    assert [row.split()[0] for row in rows] == list(NAMES)
    assert "numbers within 0.0001 of" in advice
    assert alone.out in run_cli("info", model).out
    told = json.loads(run_cli("info", model, "--fingerprint", "--json").out)
    fingerprint = EncoderFingerprint.model_validate_json(json.dumps({k: v for k, v in told.items() if k != "name"}))
    assert fingerprint.embed_dim == 64
    assert json.loads(run_cli("info", model, "--json").out)["fingerprint"]["weights"] == fingerprint.weights
    other = run_cli("info", model, "--fingerprint", "--preprocessing", "interpolation=bilinear", "--json")
    assert EncoderFingerprint.model_validate_json(
        json.dumps({k: v for k, v in json.loads(other.out).items() if k != "name"})
    ).differences(fingerprint)
    assert "and knn is a task" in run_cli("info", "knn", "--fingerprint").error


def test_a_record_keeps_it_and_older_ones_have_none(run_cli: Cli, record_file: Path) -> None:
    content = read_record(record_file)
    assert content.fingerprint is not None
    assert content.fingerprint.embed_dim == content.identity.model.embed_dim
    before = content.identity_sha256
    edit(record_file, lambda content: content.pop("fingerprint"))
    assert read_record(record_file).fingerprint is None
    assert read_record(record_file).identity_sha256 == before
    answer = run_cli("verify", record_file)
    assert (answer.code, "fingerprint" in answer.err) == (0, False)


def test_features_that_are_no_numbers_have_none() -> None:
    encoder = Encoder.from_module(Colours(weight=math.inf), name="broken", transform=own_size(64))
    with pytest.raises(CellError, match="no fingerprint of its features: features that are not finite"):
        fingerprint_of(encoder)
