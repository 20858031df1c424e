"""Checkpoints: the golden features, exact loading, and files that must be refused."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

import massl_bench as mb
from massl_bench.core.errors import RequestError
from massl_bench.core.model_settings import ModelSettings
from massl_bench.models.checkpoints import build_checkpoint, read_checkpoint

ONE_HEAD = ModelSettings(num_heads=1)
"""Of the golden backbone, which is 64 wide: alone, without its trainer's keys, a file does not tell."""

SIZES = ["224", "96", "320", "224x320"]


@pytest.fixture
def official(golden: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_checkpoint(golden / "official_format_checkpoint.pth")
    return content


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("size", SIZES)
def test_golden_features(golden: Path, size: str) -> None:
    encoder = mb.load_encoder(str(golden / "official_format_checkpoint.pth"))
    with np.load(golden / "official_features.npz") as arrays:
        images, expected = torch.from_numpy(arrays[f"images_{size}"]), arrays[f"features_{size}"]
    features = encoder(encoder.normalise(images))
    assert features.dtype == torch.float32
    np.testing.assert_allclose(features.numpy(), expected, atol=1e-4, rtol=0)


def test_the_architecture_comes_from_the_shapes(golden: Path) -> None:
    card = build_checkpoint(golden / "official_format_checkpoint.pth", "x").card
    # The file's own args.arch says vit_small, and is wrong.
    assert card.architecture == "vit_width64_depth2_heads1_patch16"
    assert card.embed_dim == 64
    assert card.weights_origin == "official_format_checkpoint.pth (key teacher, backbone)"
    assert card.name.startswith("official_format_checkpoint-")


def test_the_teacher_is_used_and_the_student_can_be_chosen(official: dict[str, Any], tmp_path: Path) -> None:
    official["student"] = {name: tensor + 1 for name, tensor in official["student"].items()}
    file = save(official, tmp_path / "c.pth")
    teacher, student = (
        build_checkpoint(file, "x", ModelSettings(checkpoint_key=key)).network.state_dict()["cls_token"]
        for key in (None, "student")
    )
    assert torch.equal(teacher, official["teacher"]["backbone.cls_token"])
    assert torch.equal(student, teacher + 1)


def backbone(official: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {n.removeprefix("backbone."): t for n, t in official["teacher"].items() if n.startswith("backbone.")}


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "module", "safetensors"])
def test_plain_backbones(official: dict[str, Any], wrap: str, tmp_path: Path) -> None:
    tensors = backbone(official)
    if wrap == "safetensors":
        file = tmp_path / "b.safetensors"
        save_file(tensors, file)
    else:
        content: Any = {f"module.{n}": t for n, t in tensors.items()} if wrap == "module" else tensors
        file = save({"state_dict": content} if wrap == "state_dict" else content, tmp_path / "b.pth")
    loaded = build_checkpoint(file, "x", ONE_HEAD).network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_a_resnet_by_its_shapes(tmp_path: Path) -> None:
    network = timm.create_model("resnet18", num_classes=0)
    file = save(network.state_dict(), tmp_path / "r.pth")
    encoder = build_checkpoint(file, "x")
    assert (encoder.card.architecture, encoder.card.embed_dim) == ("resnet18", 512)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(encoder(images), network.eval()(images).detach())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_resnet_of_small_images_by_its_shapes(tmp_path: Path, name: str) -> None:
    # As training scripts for CIFAR make it of torchvision's model.
    reference = torchvision.models.get_model(name)
    reference.conv1 = torch.nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    reference.maxpool = torch.nn.Identity()
    reference.fc = torch.nn.Identity()
    encoder = mb.load_encoder(str(save(reference.state_dict(), tmp_path / "r.pth")))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = reference.eval()(images)
    assert encoder.card.architecture.startswith("resnet_small_images_widths64-128-256-512_")
    torch.testing.assert_close(encoder(images), expected, rtol=1e-4, atol=1e-4)


def test_missing_extra_and_misshapen_tensors_are_listed(official: dict[str, Any], tmp_path: Path) -> None:
    tensors = backbone(official)
    del tensors["norm.weight"]
    tensors["fc.weight"] = torch.zeros(3)
    tensors["blocks.1.mlp.fc2.bias"] = torch.zeros(7)
    with pytest.raises(RequestError) as error:
        build_checkpoint(save(tensors, tmp_path / "b.pth"), "mine", ONE_HEAD)
    for part in ("1 missing (norm.weight)", "1 unexpected (fc.weight)", "blocks.1.mlp.fc2.bias (7,) instead of (64,)"):
        assert part in str(error.value)


def test_every_backbone_tensor_is_filled(official: dict[str, Any], tmp_path: Path) -> None:
    for name in backbone(official):
        if name in ("pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"):
            continue  # their shapes are the architecture
        tensors = backbone(official)
        del tensors[name]
        with pytest.raises(RequestError, match=r"missing|ViT"):
            build_checkpoint(save(tensors, tmp_path / "b.pth"), "x", ONE_HEAD)


def test_tensors_that_are_not_finite(official: dict[str, Any], tmp_path: Path) -> None:
    tensors = backbone(official)
    tensors["norm.bias"][3] = float("nan")
    with pytest.raises(RequestError, match=r"not finite: norm\.bias"):
        build_checkpoint(save(tensors, tmp_path / "b.pth"), "x", ONE_HEAD)


def test_contradicting_shapes(official: dict[str, Any], tmp_path: Path) -> None:
    tensors = backbone(official)
    tensors["pos_embed"] = torch.zeros(1, 191, 64)
    with pytest.raises(RequestError, match="190 position embeddings; expected square patches on a square grid"):
        build_checkpoint(save(tensors, tmp_path / "b.pth"), "x")
    tensors = {name: t[..., :60] if name == "pos_embed" else t for name, t in backbone(official).items()}
    tensors["patch_embed.proj.weight"] = torch.zeros(60, 3, 16, 16)
    with pytest.raises(
        RequestError, match=r"heads is not in the tensors, .* 60 wide, 2 blocks deep, .*: give num_heads, or arch"
    ):
        build_checkpoint(save(tensors, tmp_path / "b.pth"), "x")


def test_arch_says_the_number_of_heads(tmp_path: Path) -> None:
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0)  # width 192: 3 heads
    file = save(network.state_dict(), tmp_path / "v.pth")
    assert build_checkpoint(file, "x").network.blocks[0].attn.num_heads == 3
    given = build_checkpoint(file, "x", ModelSettings(arch="vit_tiny_patch16_224"))
    assert given.network.blocks[0].attn.num_heads == 3
    with pytest.raises(RequestError, match="did you mean vit_tiny_patch16_224"):
        build_checkpoint(file, "x", ModelSettings(arch="vit_tiny_patch16_22"))


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


def test_hidden_code_is_refused_unexecuted(official: dict[str, Any], tmp_path: Path) -> None:
    file = save({**official, "extra": Trap(tmp_path / "executed")}, tmp_path / "evil.pth")
    with pytest.raises(
        RequestError, match=r"evil\.pth: refused: it would run \w+\.system when loaded.*nothing was executed"
    ):
        read_checkpoint(file)
    assert not (tmp_path / "executed").exists()


def test_a_namespace_cannot_carry_code(tmp_path: Path) -> None:
    file = save({"args": argparse.Namespace(hook=Trap(tmp_path / "executed"))}, tmp_path / "evil.pth")
    with pytest.raises(RequestError, match="refused"):
        read_checkpoint(file)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04 half a zip"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_no_checkpoints(content: bytes, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"c{suffix}"
    file.write_bytes(content)
    with pytest.raises(RequestError, match=r"not a (checkpoint of torch|safetensors file), or a damaged one: it is "):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>", "it is a web page$"),
        (b"\x89PNG\r\n\x1a\n....", "it is a PNG image$"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "it is a git-LFS pointer, and git lfs pull fetches"),
        (b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00}\x94", "it is a pickle$"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_checkpoint_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "c.pth"
    file.write_bytes(content)
    with pytest.raises(RequestError, match=message):
        read_checkpoint(file)


def test_a_damaged_file_is_one_error(official: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "old.pth"
    torch.save(official["teacher"], file, _use_new_zipfile_serialization=False)
    whole = file.read_bytes()
    raised = 0
    for position in range(0, 600, 7):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            read_checkpoint(file)
        except RequestError:
            raised += 1
    assert raised


def test_a_whole_network_is_refused_by_its_class(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit"), tmp_path / "network.pth")
    with pytest.raises(RequestError, match=r"it would run timm\.models\.vision_transformer\.VisionTransformer when"):
        read_checkpoint(tmp_path / "network.pth")


def test_truncated_checkpoint(golden: Path, tmp_path: Path) -> None:
    whole = (golden / "official_format_checkpoint.pth").read_bytes()
    (tmp_path / "t.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RequestError, match="not a checkpoint of torch"):
        read_checkpoint(tmp_path / "t.pth")


def test_contents_without_a_backbone(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="found the keys epoch, optimizer; expected a state dict"):
        build_checkpoint(save({"epoch": 3, "optimizer": {}}, tmp_path / "a.pth"), "x")
    with pytest.raises(RequestError, match="cannot be inferred from its tensors"):
        build_checkpoint(save({"conv.weight": torch.zeros(3)}, tmp_path / "b.pth"), "x")
    with pytest.raises(RequestError, match="found a list"):
        build_checkpoint(save([1, 2], tmp_path / "c.pth"), "x")


@pytest.mark.parametrize("arch", ["test_vit", "test_resnet"])
def test_a_network_that_is_filled_draws_nothing(tmp_path: Path, arch: str) -> None:
    """Its initialisation would take longer than reading the file, and leave values that look like weights."""
    file = tmp_path / "network.pth"
    torch.save(timm.create_model(arch, num_classes=0).state_dict(), file)
    before = torch.get_rng_state()
    build_checkpoint(file, "x", ModelSettings(arch=arch))
    assert torch.equal(torch.get_rng_state(), before)
