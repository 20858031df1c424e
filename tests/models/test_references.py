"""Every form of `--model`, offline: libraries' weights come from their own caches, laid out as they lay them out."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision import models

from massl_bench.core.errors import MissingDataError, RequestError
from massl_bench.core.files import sha256_file
from massl_bench.core.settings import DEFAULT_PREPROCESSING
from massl_bench.models import Model, ModelOptions, open_model
from massl_bench.models.identity import tensors_sha256
from massl_bench.models.reading import open_checkpoint
from massl_bench.models.weights_path import weights_of
from massl_bench.specs.registry import Registry

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def resolve(reference: str, tmp_path: Path, registry: Registry | None = None, download: bool = False) -> Model:
    options = ModelOptions(cache_dir=tmp_path / "cache", download=download)
    return open_model(reference, registry or Registry(), options)


def hub_repository(root: Path, repo: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the snapshot directory of a model repository in an empty hub cache."""
    base = root / f"models--{repo.replace('/', '--')}"
    snapshot = base / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    return snapshot


def test_pixels(tmp_path: Path) -> None:
    encoder = resolve("pixels", tmp_path).encoder("cpu")
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    features = encoder(encoder.normalise(images))
    assert features.shape == (2, 3072)
    assert torch.equal(features, images.reshape(2, -1) / 255)


def test_random_is_seeded(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    first, second = (resolve("random:resnet10t", tmp_path / str(run)) for run in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.card == second.card
    assert first.card.weights_hash_of == "tensors"
    assert first.card.preprocessing == DEFAULT_PREPROCESSING
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(first.encoder("cpu")(images), second.encoder("cpu")(images))


def test_random_vit_of_another_size_takes_the_default_input(tmp_path: Path) -> None:
    encoder = resolve("random:vit_tiny_patch16_384", tmp_path).encoder("cpu")
    assert encoder(torch.randn(1, 3, 224, 224)).shape == (1, 192)


def test_timm_weights_and_their_own_preprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = hub_repository(tmp_path / "hub", "timm/resnet10t.c3_in1k", monkeypatch)
    torch.manual_seed(1)
    network = timm.create_model("resnet10t")
    save_file(network.state_dict(), snapshot / "model.safetensors")
    model = resolve("timm:resnet10t.c3_in1k", tmp_path)
    network.reset_classifier(0)
    assert model.card.weights_sha256 == tensors_sha256(network)
    assert model.card.preprocessing_origin == "the model's own data config (timm)"
    # timm's config of this model: 176 pixels, crop 0.875 → floor(176 / 0.875) = 201.
    assert (model.card.preprocessing.resize, model.card.preprocessing.crop) == (201, 176)
    images = torch.randn(2, 3, 96, 96)
    expected = network.eval()(images)
    assert torch.allclose(model.encoder("cpu")(images), expected, atol=1e-6)


def test_timm_weights_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = hub_repository(tmp_path / "hub", "timm/resnet10t.c3_in1k", monkeypatch)
    tensors = timm.create_model("resnet10t").state_dict()
    del tensors["layer1.0.conv1.weight"]
    save_file(tensors, snapshot / "model.safetensors")
    with pytest.raises(RequestError, match=r"do not fit the architecture.*layer1\.0\.conv1\.weight"):
        resolve("timm:resnet10t.c3_in1k", tmp_path)


def test_hub_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = hub_repository(tmp_path / "hub", "org/net", monkeypatch)
    network = timm.create_model("resnet10t", num_classes=5)
    save_file(network.state_dict(), snapshot / "model.safetensors")
    config = {
        "architecture": "resnet10t",
        "num_classes": 5,
        "pretrained_cfg": {
            "input_size": [3, 64, 64], "crop_pct": 1.0, "interpolation": "bilinear", "num_classes": 5,
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "first_conv": "conv1.0", "classifier": "fc",
        },
    }  # fmt: skip
    (snapshot / "config.json").write_text(json.dumps(config))
    card = resolve("hf-hub:org/net", tmp_path).card
    assert card.preprocessing.describe() == (
        "resize short side to 64 (bilinear, antialiased), centre crop 64, mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5]"
    )
    assert (card.architecture, card.embed_dim) == ("resnet10t", 512)


def test_weights_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for reference in ("timm:resnet10t.c3_in1k", "hf-hub:org/absent"):
        with pytest.raises(MissingDataError, match="its weights are not on this machine"):
            resolve(reference, tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(
        MissingDataError, match=r"offline=True was given: https://download\.pytorch\.org/models/resnet18"
    ):
        resolve("torchvision:resnet18", tmp_path)


def test_torchvision_with_its_own_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    weights = models.get_model_weights("mobilenet_v2").DEFAULT
    file = tmp_path / "torch" / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.manual_seed(2)
    network = models.mobilenet_v2()
    torch.save(network.state_dict(), file)
    model = resolve("torchvision:mobilenet_v2", tmp_path)
    preprocessing = model.card.preprocessing
    assert (preprocessing.resize, preprocessing.crop, preprocessing.interpolation) == (232, 224, "bilinear")
    images = torch.randn(2, 3, 64, 64)
    expected = network.eval().features(images).mean([2, 3])
    assert torch.allclose(model.encoder("cpu")(images), expected, atol=1e-6)


def test_torchvision_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    torch.save(models.resnet18().state_dict(), file)
    card = resolve(f"torchvision:resnet18@{file}", tmp_path).card
    assert card.name == "torchvision:resnet18@mine"
    assert card.preprocessing == DEFAULT_PREPROCESSING
    assert card.embed_dim == 512
    with pytest.raises(RequestError, match=r"its tensors are not those of the architecture: \d+ missing"):
        resolve(f"torchvision:resnet50@{file}", tmp_path)
    with pytest.raises(RequestError, match="no such file"):
        resolve("torchvision:resnet18@nowhere.pth", tmp_path)
    torch.save(models.squeezenet1_0().state_dict(), file)
    with pytest.raises(RequestError, match="does not end in a linear layer"):
        resolve(f"torchvision:squeezenet1_0@{file}", tmp_path)


def write_manifest(folder: Path, checkpoint: Path, **changes: str) -> Registry:
    folder.mkdir(exist_ok=True)
    lines = {
        "name": '"mine"',
        "file": f'"{checkpoint}"',
        "sha256": f'"{sha256_file(checkpoint)}"',
        "summary": '"s"',
        "licence": '"MIT"',
        "citation": '"c"',
        **changes,
    }
    text = "".join(f"{key} = {value}\n" for key, value in lines.items())
    text += "[preprocessing]\nresize = 96\nresize_mode = 'squash'\ncrop = 96\ninterpolation = 'bilinear'\n"
    (folder / "mine.toml").write_text(text + "mean = [0, 0, 0]\nstd = [1, 1, 1]\n")
    return Registry(weights_dir=folder)


def test_manifest(golden: Path, tmp_path: Path) -> None:
    registry = write_manifest(tmp_path / "weights", golden / "official_format_checkpoint.pth")
    card = resolve("mine", tmp_path, registry).card
    assert (card.name, card.licence, card.preprocessing_origin) == ("mine", "MIT", "the model's manifest")
    assert card.preprocessing.describe() == (
        "resize both sides to 96 (bilinear, antialiased), centre crop 96, values in [0, 1]"
    )


def test_manifest_whose_file_was_changed(golden: Path, tmp_path: Path) -> None:
    file = golden / "official_format_checkpoint.pth"
    registry = write_manifest(tmp_path / "weights", file, sha256=f'"{"0" * 64}"')
    with pytest.raises(RequestError, match=r"has sha256 8b8968e5\w+, its manifest .* says 0000"):
        resolve("mine", tmp_path, registry)
    registry = write_manifest(tmp_path / "weights", file, file='"gone.pth"')
    with pytest.raises(MissingDataError, match=r"gone\.pth .* does not exist"):
        resolve("mine", tmp_path, registry)


def test_a_changed_checkpoint_is_noticed(golden: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.pth"
    content = (golden / "official_format_checkpoint.pth").read_bytes()
    file.write_bytes(content)
    first = resolve(str(file), tmp_path).card
    loaded = torch.load(file, weights_only=False)
    loaded["teacher"]["backbone.norm.bias"][0] += 1
    torch.save(loaded, file)
    second = resolve(str(file), tmp_path).card
    assert first.weights_sha256 != second.weights_sha256


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("pixel", "unknown model 'pixel'; did you mean pixels?"),
        ("timm:resnet18x", "did you mean resnet18"),
        ("random:resnt18", "did you mean"),
        ("torchvision:resnet19", "did you mean"),
        ("nowhere/model.pth", "no such file"),
        ("model.pth", "no such file"),
    ],
)
def test_unknown_models(reference: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as error:
        resolve(reference, tmp_path)
    assert message in str(error.value)


def test_what_is_neither_file_nor_directory(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="model /dev/null: a device; expected a checkpoint, or a directory with one"):
        open_model("/dev/null", Registry(), ModelOptions(cache_dir=tmp_path))


def test_a_directory_with_one_checkpoint(golden: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(RequestError, match=r"no checkpoint in this directory \(\.bin, .*\): it is empty"):
        resolve(str(folder), tmp_path)
    (folder / "checkpoint.pth").write_bytes((golden / "official_format_checkpoint.pth").read_bytes())
    assert resolve(str(folder), tmp_path).card.name == "checkpoint-c28342cd"
    (folder / "other.pth").write_bytes(b"")
    with pytest.raises(RequestError, match=r"found checkpoint\.pth, other\.pth; name the file"):
        resolve(str(folder), tmp_path)


def test_what_a_path_leads_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "link.pth").symlink_to("gone.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    for folder in ("pictures", "runs/last"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "pictures/a\n.png").touch()
    (tmp_path / "runs/last/checkpoint.pth").touch()
    for name, message in {
        "link.pth": "a link to gone.pth, which is not there; expected a checkpoint, or a directory with one",
        "pipe.pth": "a pipe; expected a checkpoint, or a directory with one",
        "gone.pth": "no such file; expected a checkpoint, or a directory with one",
        "pictures": r"it holds a\n.png",
        "runs": f"it holds last/; next: give {tmp_path}/runs/last/checkpoint.pth",
    }.items():
        with pytest.raises(RequestError) as caught:
            weights_of(tmp_path / name)
        assert str(caught.value).endswith(message)


def test_why_a_safetensors_file_is_damaged(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(RequestError, match=r"or a damaged one: it is a file that begins with .* \(.*header.*\)$"):
        open_checkpoint(tmp_path / "w.safetensors")
