"""SwAV's published files: a state dict itself, projector and prototypes among the ResNet's tensors."""

from __future__ import annotations

from functools import partial
from typing import Any

import torchvision

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, published_resnet, some, wide_resnet


def _write(backbone: State, twin: State) -> Any:
    heads = some("projection_head.0.weight", "projection_head.1.running_mean", "projection_head.3.bias")
    return prefixed("module.", {**backbone, **heads, **some("prototypes.weight")})


LAYOUT = layout(
    "swav",
    "facebookresearch/swav 06b1b7c src/resnet50.py, eval_linear.py",
    _write,
    left_out=frozenset({"projector", "prototypes"}),
    published={
        "resnet50": published_resnet(_write, torchvision.models.resnet50, "resnet50"),
        **{
            f"resnet50w{times}": published_resnet(
                _write, partial(wide_resnet, (3, 4, 6, 3), times), f"resnet50x{times}"
            )
            for times in (2, 4, 5)
        },
    },
    std=(0.228, 0.224, 0.225),
)
