"""A ResNet's state dict in torchvision's names with its classifier."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision

from tests.models.layouts import Layout, Made, filled


def make(folder: Path) -> Made:
    network = filled(torchvision.models.resnet18(num_classes=7), seed=4)
    torch.save({"model": network.state_dict(), "epoch": 2}, folder / "resnet.pth")
    network.fc = torch.nn.Identity()
    return Made(
        path=folder / "resnet.pth",
        source=network,
        side=64,
        other_side=96,
        crop=224,
        left_out=frozenset({"classifier"}),
    )


LAYOUT = Layout(adapter="timm_resnet", read_in="pytorch/vision resnet.py", make=make)
