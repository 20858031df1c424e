"""An encoder of one's own: a module, or a function in a file; its identity and its errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

import massl_bench as mb
from massl_bench.models.transforms import preprocessing_of
from tests.conftest import Cli


class Net(nn.Module):
    def __init__(self, padding: int = 1, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 8, 3, padding=padding)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images).relu().mean((2, 3))


STEPS = transforms.Compose(
    [
        transforms.Resize(40, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(32),
        transforms.ToTensor(),
        transforms.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
    ]
)


def images(count: int) -> list[tuple[Image.Image, int]]:
    rng = np.random.default_rng(0)
    return [(Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)), index % 2) for index in range(count)]


def test_its_features_are_what_the_module_makes_of_the_transformed_images() -> None:
    net = Net()
    encoder = mb.Encoder.from_module(net, name="mine", transform=STEPS)
    bank = mb.extract(encoder, images(5), progress=False)["all"]
    with torch.inference_mode():
        expected = net(torch.stack([STEPS(image) for image, _ in images(5)])).numpy()
    np.testing.assert_allclose(bank.features, expected, atol=1e-6)
    assert encoder.card.embed_dim == 8
    assert encoder.card.preprocessing.resize == 40


def identity(encoder: mb.Encoder) -> tuple[str, str]:
    return encoder.card.weights_sha256, encoder.card.network_sha256


def test_whatever_can_change_a_feature_changes_the_identity() -> None:
    class Other(Net):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.conv(images).mean((2, 3))

    first = identity(mb.Encoder.from_module(Net(), name="mine", transform=STEPS))
    assert identity(mb.Encoder.from_module(Net(), name="another name", transform=STEPS)) == first
    for changed in (Net(padding=0), Net(seed=1), Other()):
        assert identity(mb.Encoder.from_module(changed, name="mine", transform=STEPS)) != first


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (STEPS, (40, "shortest", 32, "bicubic", (0.5, 0.4, 0.3))),
        (v2.Compose([v2.Resize((24, 24)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]), (24, "squash", 24)),
        (ResNet18_Weights.DEFAULT.transforms(), (256, "shortest", 224, "bilinear", (0.485, 0.456, 0.406))),
    ],
)
def test_transforms_become_settings(transform: object, expected: tuple[object, ...]) -> None:
    found = preprocessing_of(transform)
    values = (found.resize, found.resize_mode, found.crop, found.interpolation, found.mean)
    assert values[: len(expected)] == expected


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (None, "say how images are prepared"),
        (transforms.Compose([transforms.RandomCrop(32), transforms.ToTensor()]), "RandomCrop(size=(32, 32)"),
        (transforms.Compose([transforms.Resize(32), transforms.ToTensor()]), "images must have one size"),
        (transforms.Compose([transforms.Resize((32, 48))]), "none of the steps that a record can hold"),
        (transforms.Compose([transforms.CenterCrop(32), transforms.Resize(32)]), "in this order, found CenterCrop"),
        (lambda image: image, "none of the steps"),
        # A tensor is resized with other roundings than a PIL image; values up to 255 are other inputs.
        (
            v2.Compose([v2.ToImage(), v2.Resize((24, 24)), v2.ToDtype(torch.float32, scale=True)]),
            "in this order, found",
        ),
        (v2.Compose([v2.Resize((24, 24)), v2.ToImage(), v2.ToDtype(torch.float32)]), "none of the steps"),
        (v2.Compose([v2.Resize((24, 24)), v2.ToImage()]), "in this order, found Resize"),
    ],
)
def test_transforms_that_no_record_could_hold_are_refused(transform: object, message: str) -> None:
    with pytest.raises(mb.RequestError) as error:
        mb.Encoder.from_module(Net(), name="mine", transform=transform)
    assert message in str(error.value)


def test_modules_that_are_no_encoders_are_refused() -> None:
    for module, message in (
        (nn.Conv2d(3, 8, 3), r"expected features \[2, D\] of two images, found \[2, 8, 30, 30\]"),
        (nn.Linear(7, 2), r"the module does not take images \[2, 3, 32, 32\]: RuntimeError"),
        (STEPS, "expected a torch.nn.Module, found Compose"),
    ):
        with pytest.raises(mb.RequestError, match=message):
            mb.Encoder.from_module(module, name="mine", transform=STEPS)


FILE = """
import torch
from torch import nn
import massl_bench as mb

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3 * 8 * 8, {dims})

    def forward(self, images):
        return self.layer(images.flatten(1))

def build():
    half = (0.5, 0.5, 0.5)
    settings = mb.Preprocessing(resize=8, resize_mode="squash", crop=8, interpolation="bilinear", mean=half, std=half)
    return Net(), settings

def broken():
    raise OSError("no\\nsuch weights")

def number():
    return 3
"""


def test_a_function_in_a_file_is_a_model(run_cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILE.format(dims=16))
    answer = run_cli("run", "--task", "knn", "--dataset", "digits", "--model", f"{file}:build", "--json")
    assert answer.code == 0, answer.err
    assert "what build() of mine.py makes (code of yours, sha256 " in answer.err
    again = run_cli("run", "--task", "knn", "--dataset", "digits", "--model", f"{file}:build")
    assert "finished before" in again.out + again.err
    file.write_text(FILE.format(dims=24))
    changed = run_cli("run", "--task", "knn", "--dataset", "digits", "--model", f"{file}:build")
    assert changed.code == 0, changed.err
    assert "finished before" not in changed.out + changed.err


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "no function nothing in"),
        ("broken", "OSError: no such weights"),
        ("number", "expected number() to return massl_bench.Encoder, or (module, transform); found int"),
    ],
)
def test_functions_that_make_no_model(run_cli: Cli, tmp_path: Path, function: str, message: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILE.format(dims=16))
    answer = run_cli("run", "--task", "knn", "--dataset", "digits", "--model", f"{file}:{function}")
    assert answer.code == 2
    assert message in answer.error
    assert "Traceback" not in answer.err
