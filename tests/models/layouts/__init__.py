"""A small file of each layout, with decoys, and the network that it was made of: one module for each, found by name.

A layout's module has `LAYOUT`, and says where the layout was read. Every module here is tried by `test_layouts.py`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from massl_bench.core.model_settings import NO_SETTINGS, ModelSettings
from massl_bench.core.settings import IMAGENET_MEAN, IMAGENET_STD
from massl_bench.models.outline import Outline

State = dict[str, Tensor]

Features = Callable[[Tensor], Tensor]
"""From normalised images [B, 3, H, W] to features [B, D]."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A file of a layout, and what it was made of.

    Attributes:
        path: the file, or the directory.
        source: the features of the network whose tensors are in it, computed without this package's loading.
        side: of the images that the network is made for, in pixels.
        other_side: another size that it takes; None where it takes one alone.
        crop: of the evaluation's images, in pixels.
        heads: of a ViT.
        patch: of a ViT.
        mean: of the evaluation.
        std: of the evaluation.
        settings: what must be said of the file, where neither it nor its layout tells.
        twins: by `checkpoint_key`: the features of the other sets of weights in the file.
        left_out: what must be named as left out.
        tolerance: of the features.
    """

    path: Path
    source: Features
    side: int
    other_side: int | None
    crop: int
    heads: int | None = None
    patch: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    settings: ModelSettings = NO_SETTINGS
    twins: Mapping[str, Features] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()
    tolerance: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published file's shapes, without values: what must be found out about it.

    Attributes:
        content: what the file holds, with tensors on the device `meta`.
        heads: of attention; None for a ResNet.
        crop: of the authors' evaluation, in pixels.
        arch: architecture, or its beginning.
    """

    content: Callable[[], Any]
    heads: int | None
    crop: int
    arch: str


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One layout.

    Attributes:
        adapter: which must have it.
        read_in: where the layout was read.
        make: writes a small file of it into an empty folder.
        published: shapes of published files.
    """

    adapter: str
    read_in: str
    make: Callable[[Path], Made]
    published: Mapping[str, Published] = field(default_factory=dict)


def layouts() -> dict[str, Layout]:
    """Returns all layouts by the names of their modules."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    return {name: importlib.import_module(f"{__name__}.{name}").LAYOUT for name in sorted(names)}


def filled(network: nn.Module, seed: int) -> nn.Module:
    """Gives every tensor of a network values of its own, running statistics too; returns it in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            values = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(values.abs() + 0.5 if name.endswith("running_var") else 0.2 * values)
            if tensor.ndim == 1 and name.endswith("weight"):
                tensor.add_(1)
    return network.eval().requires_grad_(False)


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors with a prefix before their names."""
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def on_meta(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """Returns the names and shapes of a network's tensors, without values."""
    with torch.device("meta"), Outline():
        return dict(build().state_dict())


def tiny_vit(
    *, seed: int, img_size: int = 32, patch_size: int = 8, width: int = 64, heads: int = 2, **more: Any
) -> Any:
    """Returns a ViT of timm with two blocks, as plain as DINO's, with its own values; its feature is the class token.

    It takes images of one size: `at_any_size` resamples its position embeddings as authors do.
    """
    from functools import partial

    from timm.models.vision_transformer import VisionTransformer

    options: dict[str, Any] = {"num_classes": 0, "mlp_ratio": 2, "norm_layer": partial(nn.LayerNorm, eps=1e-6), **more}
    network = VisionTransformer(
        img_size=img_size, patch_size=patch_size, embed_dim=width, depth=2, num_heads=heads, **options
    )
    return filled(network, seed)


def at_any_size(network: Any, resample: Callable[[Tensor, int, int], Tensor]) -> Features:
    """Returns the features of a ViT of timm at any square size, with position embeddings that authors' code resamples.

    Args:
        network: made for one size.
        resample: from the patches' embeddings [1, D, G, G] and a side to [1, D, side, side], with the old side between.
    """
    import copy

    def features(images: Tensor) -> Tensor:
        grid = network.patch_embed.grid_size[0]
        side = images.shape[-1] // network.patch_embed.patch_size[0]
        if side == grid:
            return network(images)
        sized = copy.deepcopy(network)
        count = 0 if network.no_embed_class else network.num_prefix_tokens
        positions = network.pos_embed
        patches = positions[:, count:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
        new = resample(patches, grid, side).permute(0, 2, 3, 1).reshape(1, side * side, -1)
        sized.patch_embed.set_input_size(img_size=(images.shape[-1],) * 2)
        sized.pos_embed = nn.Parameter(torch.cat([positions[:, :count], new], dim=1), requires_grad=False)
        return sized(images)

    return features


def dino_positions(patches: Tensor, grid: int, side: int) -> Tensor:
    """Resamples as DINO's vision_transformer.py does (`interpolate_pos_encoding`)."""
    factor = (side + 0.1) / grid
    return nn.functional.interpolate(patches, scale_factor=(factor, factor), mode="bicubic")


def to_size_positions(patches: Tensor, grid: int, side: int) -> Tensor:
    """Resamples as MAE's util/pos_embed.py and Hugging Face's ViT do: bicubic to the size, no antialiasing."""
    return nn.functional.interpolate(patches, size=(side, side), mode="bicubic", align_corners=False)


def antialiased_positions(patches: Tensor, grid: int, side: int) -> Tensor:
    """Resamples as DINOv2 with registers, open_clip and timm do: bicubic to the size, antialiased."""
    return nn.functional.interpolate(patches, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
