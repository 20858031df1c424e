"""DINOv3's ConvNeXts: original names; the final norm is there twice, and the feature is the normed mean of the map."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from tests.models.layouts import Layout, Made, Published, filled, on_meta


def _names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """facebookresearch/dinov3 6876159 dinov3/models/convnext.py."""
    official = {}
    for name, tensor in state.items():
        new = re.sub(r"^stem\.", "downsample_layers.0.", name)
        new = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", new)
        new = re.sub(r"\.blocks\.(\d+)\.", r".\1.", new)
        new = new.replace(".conv_dw.", ".dwconv.").replace(".mlp.fc", ".pwconv").replace("head.norm.", "norm.")
        official[new] = tensor
    return {**official, "norms.3.weight": official["norm.weight"], "norms.3.bias": official["norm.bias"]}


def make(folder: Path) -> Made:
    network: Any = timm.create_model("convnext_tiny", num_classes=0, dims=(16, 24, 32, 48), depths=(1, 1, 2, 1))
    torch.save(_names(filled(network, 3).state_dict()), folder / "convnext.pth")
    return Made(
        path=folder / "convnext.pth",
        source=network,
        side=64,
        other_side=96,
        crop=224,
        left_out=frozenset({"norms of stages"}),
    )


def _published(arch: str) -> Published:
    def content() -> Any:
        return _names(on_meta(lambda: timm.create_model(arch, num_classes=0)))

    return Published(content=content, heads=None, crop=224, arch=arch)


LAYOUT = Layout(
    adapter="dinov3_convnext",
    read_in="facebookresearch/dinov3 6876159 dinov3/models/convnext.py",
    make=make,
    published={arch: _published(arch) for arch in ("convnext_base",)},
)
