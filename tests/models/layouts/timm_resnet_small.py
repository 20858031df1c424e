"""A ResNet of small images, as training scripts for CIFAR make it of torchvision's."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision

from tests.models.layouts import Layout, Made, filled


def make(folder: Path) -> Made:
    network = torchvision.models.resnet18()
    network.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = torch.nn.Identity()
    network.fc = torch.nn.Identity()
    filled(network, seed=5)
    torch.save(network.state_dict(), folder / "resnet.pth")
    return Made(path=folder / "resnet.pth", source=network, side=32, other_side=40, crop=32, tolerance=1e-3)


LAYOUT = Layout(adapter="timm_resnet", read_in="pytorch/vision resnet.py; SimCLR appendix B.9", make=make)
