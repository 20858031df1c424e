"""A ViT's state dict in timm's names with its classifier, wrapped by torch.compile and DataParallel."""

from __future__ import annotations

from pathlib import Path

import timm
import torch

from massl_bench.core.model_settings import ModelSettings
from tests.models.layouts import Layout, Made, Published, at_any_size, dino_positions, on_meta, prefixed, tiny_vit


def make(folder: Path) -> Made:
    network = tiny_vit(seed=3)
    tensors = {**network.state_dict(), "head.weight": torch.randn(10, 64), "head.bias": torch.randn(10)}
    torch.save({"state_dict": prefixed("module._orig_mod.", tensors)}, folder / "vit.pth")
    return Made(
        path=folder / "vit.pth",
        source=at_any_size(network, dino_positions),
        side=32,
        other_side=56,
        crop=32,
        heads=2,
        patch=8,
        settings=ModelSettings(num_heads=2),
        left_out=frozenset({"classifier"}),
    )


LAYOUT = Layout(
    adapter="timm_vit",
    read_in="timm 1.0.31 vision_transformer.py; facebookresearch/dino 7c446df hubconf.py",
    make=make,
    published={
        "dino-vitb8": Published(
            content=lambda: on_meta(lambda: timm.create_model("vit_base_patch8_224", num_classes=0)),
            heads=12,
            crop=224,
            arch="vit_base_patch8",
        ),
    },
)
