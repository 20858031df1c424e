"""A backbone is the architecture that was asked for, at the sizes of the views, and loads again as what it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from massl_bench.core.errors import RequestError
from massl_bench.models.checkpoints import build_checkpoint
from massl_bench.models.networks.vit import MasslVisionTransformer
from massl_bench.pretrain.backbones import build_backbone, manifest_arch
from massl_bench.pretrain.config import BackboneConfig
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.export import export_model
from massl_bench.pretrain.loop.state import initial_network

PATCH, SIDE, LOCAL = 4, 16, 8

# What each has that the plain ViT has not.
SPECIAL = {
    "deit_tiny_distilled_patch16_224": "dist_token",
    "vit_xsmall_patch16_clip_224": "norm_pre.weight",
    "vit_little_patch16_reg4_gap_256": "reg_token",
    "vit_pwee_patch16_reg1_gap_256": "blocks.0.in_proj.weight",
}


@pytest.mark.parametrize("arch", SPECIAL)
def test_special_vits_are_timm_s_own(arch: str, tmp_path: Path) -> None:
    settings = [f"backbone.{key}=none" for key in ("embed_dim", "depth", "position_std")]
    config = load_config(
        "tiny-digits",
        [*settings, f"backbone.arch={arch}", "backbone.init=timm", f"backbone.patch_size={PATCH}"]
        + [f"views.{view}.size={size}" for view, size in (("global_1", SIDE), ("global_2", SIDE), ("local", LOCAL))],
    )
    network = initial_network(config).eval()
    backbone = network.backbone
    assert SPECIAL[arch] in backbone.state_dict()
    views = [torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0)) for side in (SIDE, LOCAL)]
    with torch.no_grad():
        assert network(views).shape == (4, config.head.out_dim)
        features = backbone(views[0])
        training = {"steps": 0, "dataset": "none"}
        export_model(backbone, config, name="mine", folder=tmp_path, licence="none", training=training)
        encoder = build_checkpoint(tmp_path / "mine.safetensors", "mine")
        assert encoder.card.architecture == arch
        assert torch.equal(encoder.network(views[0]), features)
        torch.testing.assert_close(encoder.network(views[1]), backbone(views[1]))


def test_plain_vits_are_the_published_one() -> None:
    config = BackboneConfig(arch="vit_tiny_patch16_224", patch_size=8, drop_path=0.0, init="timm")
    backbone = build_backbone(config, 32, 0.0)
    assert isinstance(backbone, MasslVisionTransformer)
    assert backbone.pos_embed.shape == (1, 17, 192)
    assert manifest_arch(config) is None


def test_a_vit_behind_a_resnet_is_refused() -> None:
    config = BackboneConfig(arch="vit_tiny_r_s16_p8_224", drop_path=0.0, init="timm")
    with pytest.raises(RequestError, match="vit_tiny_r_s16_p8_224 cuts no patches out of images, but has a Hybrid"):
        build_backbone(config, 32, 0.0)


def test_patches_by_a_matrix_product_are_the_convolution() -> None:
    """In training the embedding is a product over pixels: the convolution's numbers, and its gradients."""
    embed = MasslVisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=1).patch_embed
    images = torch.rand(2, 3, 35, 33, generator=torch.Generator().manual_seed(0))
    found = {}
    for training in (True, False):
        embed.train(training)
        embed.zero_grad()
        patches = embed(images)
        patches.square().sum().backward()
        found[training] = patches.detach(), embed.proj.weight.grad.clone(), embed.proj.bias.grad.clone()
    assert found[True][0].shape == (2, 4, 4, 64)
    for one, other in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
