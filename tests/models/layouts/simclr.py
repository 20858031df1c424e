"""SimCLR 1x, 2x, 4x as simclr-converter writes them: the shortcut first in each block, a classifier."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torchvision

from tests.models.resnet_layouts import State, layout, published_resnet, wide_resnet


def _write(backbone: State, twin: State) -> Any:
    blocks = dict.fromkeys(_block(name) for name in backbone)
    ordered = sorted(backbone, key=lambda name: (list(blocks).index(_block(name)), ".downsample." not in name))
    head = {"fc.weight": torch.randn(10, 128), "fc.bias": torch.randn(10)}
    return {"state_dict": {**{name: backbone[name] for name in ordered}, **head}}


def _block(name: str) -> str:
    return ".".join(name.split(".")[:2]) if name.startswith("layer") else name.split(".", maxsplit=1)[0]


LAYOUT = layout(
    "simclr",
    "tonylins/simclr-converter 59bee34 convert.py, eval.py",
    _write,
    left_out=frozenset({"classifier"}),
    published={
        "resnet50-1x": published_resnet(_write, torchvision.models.resnet50, "resnet50", 256),
        **{
            f"resnet50-{times}x": published_resnet(
                _write, partial(wide_resnet, (3, 4, 6, 3), times), f"resnet50x{times}", 256
            )
            for times in (2, 4)
        },
    },
    crop=256,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)
