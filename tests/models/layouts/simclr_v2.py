"""SimCLR v2 as SimCLRv2-Pytorch writes it: its own names, a classifier inside, the contrastive head beside."""

from __future__ import annotations

import re
from typing import Any

import torch

from tests.models.resnet_layouts import State, layout, some


def _their_name(name: str) -> str:
    """Separius/SimCLRv2-Pytorch resnet.py: `Stem`, `Blocks`, `BottleneckBlock`, `Projection`, `BatchNormRelu`."""
    match = re.fullmatch(r"(?:layer(\d)\.(\d+)\.)?([a-z0-9]+)\.(.*)", name)
    assert match is not None
    stage, block, part, rest = match.groups()
    if stage is None:
        return f"net.0.{'0' if part == 'conv1' else '1.0'}.{rest}"
    at = f"net.{stage}.blocks.{block}."
    if part == "downsample":
        number, rest = rest.split(".", 1)
        return f"{at}projection.{'shortcut' if number == '0' else 'bn.0'}.{rest}"
    place = 2 * (int(part[-1]) - 1)
    return f"{at}net.{place}.{rest}" if part.startswith("conv") else f"{at}net.{place + 1}.0.{rest}"


def _write(backbone: State, twin: State) -> Any:
    state = {_their_name(name): tensor for name, tensor in backbone.items()}
    head = {"fc.weight": torch.randn(10, 128), "fc.bias": torch.randn(10)}
    return {"resnet": {**state, **head}, "head": some("layers.0.weight", "layers.1.weight", "net.0.0.weight")}


LAYOUT = layout(
    "simclr_v2",
    "Separius/SimCLRv2-Pytorch 46ad293 convert.py, verify.py, resnet.py",
    _write,
    left_out=frozenset({"classifier", "projector"}),
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)
