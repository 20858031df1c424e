"""DeepCluster-v2 as its trainer writes it: under a key, with several sets of prototypes."""

from __future__ import annotations

from typing import Any

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, some


def _write(backbone: State, twin: State) -> Any:
    heads = some("projection_head.0.weight", "prototypes.prototypes0.weight", "prototypes.prototypes1.weight")
    return {
        "epoch": 4,
        "arch": "resnet50",
        "state_dict": prefixed("module.", {**backbone, **heads}),
        "optimizer": {"state": {0: {"momentum_buffer": backbone["conv1.weight"]}}},
    }


LAYOUT = layout(
    "swav",
    "facebookresearch/swav 06b1b7c main_deepclusterv2.py, src/resnet50.py",
    _write,
    left_out=frozenset({"projector", "prototypes", "optimizer"}),
    std=(0.228, 0.224, 0.225),
)
