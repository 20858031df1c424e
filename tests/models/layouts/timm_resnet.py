"""A ResNet's state dict in torchvision's names with its classifier."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision

from tests.models.layouts import Layout, Made, Published, on_meta
from tests.models.resnet_layouts import network


def make(folder: Path) -> Made:
    source = network(4)
    classifier = {"fc.weight": torch.randn(7, 128), "fc.bias": torch.randn(7)}
    torch.save({"model": {**source.state_dict(), **classifier}, "epoch": 2}, folder / "resnet.pth")
    return Made(
        path=folder / "resnet.pth",
        source=source,
        side=64,
        other_side=96,
        crop=224,
        left_out=frozenset({"classifier"}),
    )


def _published(arch: str) -> Published:
    return Published(content=lambda: on_meta(getattr(torchvision.models, arch)), heads=None, crop=224, arch=arch)


LAYOUT = Layout(
    adapter="timm_resnet",
    read_in="pytorch/vision resnet.py",
    make=make,
    published={
        arch: _published(arch)
        for arch in ("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "wide_resnet50_2")
    },
)
