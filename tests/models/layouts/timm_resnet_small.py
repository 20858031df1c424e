"""A ResNet of small images, as training scripts for CIFAR make it of torchvision's."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.models.layouts import Layout, Made
from tests.models.resnet_layouts import small_network


def make(folder: Path) -> Made:
    network = small_network(5)
    torch.save(network.state_dict(), folder / "resnet.pth")
    return Made(path=folder / "resnet.pth", source=network, side=32, other_side=40, crop=32)


LAYOUT = Layout(adapter="timm_resnet", read_in="pytorch/vision resnet.py; SimCLR appendix B.9", make=make)
