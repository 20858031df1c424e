"""The backbone of a configuration, under timm's tensor names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from massl_bench.core.errors import RequestError, unknown_name
from massl_bench.models.networks.resnet import SmallImageResNet
from massl_bench.models.networks.vit import MasslVisionTransformer, is_plain, like_plain_vit, special_vit
from massl_bench.pretrain.config import BackboneConfig, PretrainConfig

_HEAD_WIDTH = 64


def initial_backbone(config: PretrainConfig, *, student: bool) -> Any:
    """Makes a student's or a teacher's backbone with fresh weights from torch's current generator.

    Args:
        config: of the pretraining.
        student: whether stochastic depth is in it; the tensors have the same names either way.

    Raises:
        RequestError: The architecture is unknown, or views do not fit its patches.
    """
    patch = patch_side(config.backbone)
    for crop in config.views.crops:
        if crop.size % patch:
            raise RequestError(f"views: {crop.size} pixels are not a multiple of the patch size {patch}")
    drop_path = config.backbone.drop_path if student else 0.0
    backbone = build_backbone(config.backbone, config.views.global_1.size, drop_path)
    if config.backbone.position_std is not None:
        _initialise(backbone, config.backbone)
    return backbone


def build_backbone(config: BackboneConfig, image_size: int, drop_path: float) -> Any:
    """Makes a backbone that maps images [N, 3, S, S] to features [N, D].

    Args:
        config: the architecture.
        image_size: S of the global views, which a ViT's position embeddings are made for.
        drop_path: rate of stochastic depth.

    Raises:
        RequestError: timm has no such architecture, or it is neither a ViT nor a ResNet.
    """
    if config.arch == "vit":
        assert config.embed_dim is not None
        assert config.depth is not None
        assert config.patch_size is not None
        return MasslVisionTransformer(
            img_size=image_size,
            patch_size=config.patch_size,
            embed_dim=config.embed_dim,
            depth=config.depth,
            num_heads=config.embed_dim // _HEAD_WIDTH,
            drop_path_rate=drop_path,
        )
    if config.arch == "resnet":
        assert config.widths is not None
        assert config.depths is not None
        return SmallImageResNet(widths=config.widths, depths=config.depths, drop_path_rate=drop_path)
    model = _timm_model(config.arch)
    if not hasattr(model, "blocks"):
        if config.patch_size is not None:
            raise RequestError(f"backbone.patch_size: {config.arch} has no patches")
        import timm

        # The last normalisation of each block starts at zero, so that every block starts as the identity.
        return timm.create_model(config.arch, num_classes=0, drop_path_rate=drop_path, zero_init_last=True)
    patch_size = patch_side(config)
    if is_plain(model):
        return like_plain_vit(model, img_size=image_size, patch_size=patch_size, drop_path_rate=drop_path)
    return special_vit(config.arch, img_size=image_size, patch_size=patch_size, drop_path_rate=drop_path)


def patch_side(config: BackboneConfig) -> int:
    """Returns the side of a patch in pixels, 1 for a network without patches.

    Raises:
        RequestError: timm has no such architecture, or it is neither a ViT nor a ResNet.
    """
    if config.patch_size is not None:
        return config.patch_size
    if config.arch == "resnet":
        return 1
    model = _timm_model(config.arch)
    return model.patch_embed.patch_size[0] if hasattr(model, "blocks") else 1


def _initialise(backbone: Any, config: BackboneConfig) -> None:
    """Draws a ViT's weights anew, scaled by the widths of the layers."""
    if not hasattr(backbone, "pos_embed"):
        raise RequestError(f"backbone.init: xavier is for a ViT, and arch is {config.arch}")
    for layer in backbone.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    nn.init.normal_(backbone.pos_embed, std=config.position_std or 0.0)


def manifest_arch(config: BackboneConfig) -> str | None:
    """Returns the architecture that loading the exported tensors needs to be told, or None where shapes tell it."""
    if config.arch in ("vit", "resnet"):
        return None
    model = _timm_model(config.arch)
    if hasattr(model, "blocks") and is_plain(model):
        return None  # the file says how many heads there are
    return config.arch


def _timm_model(arch: str) -> Any:
    """Returns a model of timm without values in its tensors, to read its widths."""
    import timm
    from timm.layers.patch_embed import PatchEmbed
    from timm.models.resnet import ResNet
    from timm.models.vision_transformer import VisionTransformer

    if not timm.is_model(arch):
        raise unknown_name("timm architecture", arch, timm.list_models(), "or vit, resnet")
    with torch.device("meta"):
        model: Any = timm.create_model(arch, num_classes=0)
    if not isinstance(model, VisionTransformer | ResNet):
        found = type(model).__name__
        raise RequestError(f"backbone.arch: {arch} is a {found}; allowed: vit, resnet, a ViT or ResNet of timm")
    if isinstance(model, VisionTransformer) and not isinstance(model.patch_embed, PatchEmbed):
        found = type(model.patch_embed).__name__
        raise RequestError(
            f"backbone.arch: {arch} cuts no patches out of images, but has a {found}; choose another ViT"
        )
    return model
