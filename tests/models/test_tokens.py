"""Class token and generalised mean: a hand computation, the network's own tokens, and what such a model is called."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

import massl_bench as mb
from massl_bench.core.settings import ClassGem, PreprocessingOverride
from massl_bench.models import ModelOptions, open_model
from massl_bench.models.networks.tokens import generalised_mean, token_dim
from massl_bench.specs.registry import Registry

POOLING = ClassGem(kind="class-gem", exponent=4.0, floor=1e-6)
DESCRIBED = "class token and GeM (exponent 4, values from 1e-06) of the patch tokens, after the final norm"
SQUASH = PreprocessingOverride(resize=320, resize_mode="squash", crop=320, interpolation="bicubic")


def test_the_generalised_mean_by_hand() -> None:
    # First dimension: (1⁴ + 2⁴ + 0⁴) / 3 = 17 / 3, the negative value raised to the floor; second: all equal.
    tokens = torch.tensor([[[1.0, 3.0], [2.0, 3.0], [-5.0, 3.0]]])
    expected = torch.tensor([[(17 / 3) ** 0.25, 3.0]])
    torch.testing.assert_close(generalised_mean(tokens, 4.0, 1e-6), expected)
    below = torch.full((1, 2, 1), -1.0)
    torch.testing.assert_close(generalised_mean(below, 4.0, 0.5), torch.tensor([[0.5]]))
    torch.testing.assert_close(generalised_mean(tokens.abs(), 1.0, 1e-6), tokens.abs().mean(dim=1))


@pytest.mark.parametrize("size", [224, 320])
def test_a_checkpoint(golden: Path, size: int) -> None:
    """The first half is the golden class token; the second is computed from the last block's output, step by step."""
    encoder = mb.load_encoder(str(golden / "official_format_checkpoint.pth"))
    pooled = encoder.pooled(POOLING)
    images = encoder.normalise(torch.randint(0, 256, (2, 3, size, size), generator=torch.manual_seed(0)))
    features = pooled(images)
    assert features.shape == (2, 128)
    torch.testing.assert_close(features[:, :64], encoder(images))
    captured: list[torch.Tensor] = []
    network = encoder.network
    hook = network.blocks[-1].register_forward_hook(lambda _module, _inputs, output: captured.append(output))
    encoder(images)
    hook.remove()
    patches = torch.nn.functional.layer_norm(captured[0], (64,), network.norm.weight, network.norm.bias, 1e-6)[:, 1:]  # type: ignore[arg-type]
    assert patches.shape[1] == (size // 16) ** 2
    expected = (patches.clamp(min=1e-6) ** 4).mean(dim=1) ** 0.25
    torch.testing.assert_close(features[:, 64:], expected)
    assert (pooled.card.pooling, pooled.card.embed_dim) == (DESCRIBED, 128)
    assert (encoder.card.pooling, encoder.card.embed_dim) == ("class token after the final norm", 64)


def test_registers_are_in_neither_part() -> None:
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, reg_tokens=3, img_size=32, depth=1)
    encoder = mb.load_encoder("random:vit_tiny_patch16_224").pooled(POOLING)
    encoder.network._network = network.eval()  # the same width, with registers
    images = torch.randn(1, 3, 32, 32)
    tokens = network.forward_features(images)
    assert tokens.shape[1] == 1 + 3 + 4
    torch.testing.assert_close(encoder(images)[:, :192], tokens[:, 0])
    torch.testing.assert_close(encoder(images)[:, 192:], generalised_mean(tokens[:, 4:], 4.0, 1e-6))


@pytest.mark.parametrize(
    ("name", "options", "width"),
    [
        ("vit_tiny_patch16_224", {}, 192),
        ("vit_small_patch16_dinov3", {}, 384),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}, None),  # normalises the mean, not the tokens
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, None),
        ("resnet18", {}, None),
    ],
    ids=str,
)
def test_which_networks_have_tokens(name: str, options: dict[str, object], width: int | None) -> None:
    assert token_dim(timm.create_model(name, num_classes=0, **options)) == width  # type: ignore[arg-type]


def test_a_vit_of_one_size_takes_the_tasks_own() -> None:
    """As timm itself would with `dynamic_img_size`; the encoder stays as it was."""
    encoder = mb.load_encoder("random:vit_tiny_patch16_224")
    dynamic = timm.create_model("vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True).eval()
    dynamic.load_state_dict(encoder.network.state_dict())
    images = torch.randn(1, 3, 320, 320)
    tokens = dynamic.forward_features(images)
    features = encoder.pooled(POOLING, 320)(images)
    torch.testing.assert_close(features[:, :192], tokens[:, 0])
    torch.testing.assert_close(features[:, 192:], generalised_mean(tokens[:, 1:], 4.0, 1e-6))
    assert encoder.network.patch_embed.img_size == (224, 224)
    assert encoder.pooled(POOLING, 224)(images[..., :224, :224]).shape == (1, 384)


@pytest.mark.parametrize("reference", ["random:resnet10t", "pixels"])
def test_a_network_without_tokens_keeps_its_feature(reference: str) -> None:
    encoder = mb.load_encoder(reference)
    assert encoder.pooled(POOLING) is encoder
    assert encoder.card.pooled(POOLING) == encoder.card


def test_no_pooling_changes_nothing(golden: Path) -> None:
    encoder = mb.load_encoder(str(golden / "official_format_checkpoint.pth"))
    assert encoder.pooled(None) is encoder


def test_models_of_tiny_images_keep_their_size(golden: Path, tmp_path: Path) -> None:
    cards = {
        name: open_model(reference, Registry(), ModelOptions(cache_dir=tmp_path)).card
        for name, reference in (("pixels", "pixels"), ("vit", str(golden / "official_format_checkpoint.pth")))
    }
    pixels, vit = (cards[name].prepared(SQUASH, 64) for name in ("pixels", "vit"))
    assert (pixels.resize, pixels.crop, pixels.resize_mode, pixels.interpolation) == (32, 32, "squash", "bicubic")
    assert (vit.resize, vit.crop, vit.resize_mode, vit.interpolation) == (320, 320, "squash", "bicubic")
    assert cards["pixels"].prepared(SQUASH, 32).crop == 320
    assert cards["pixels"].prepared(SQUASH, None).crop == 320
    assert cards["pixels"].prepared(None, 64) == cards["pixels"].preprocessing
