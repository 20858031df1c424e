"""MoCo and PCL: queries and keys under one key, each with a head called `fc`, and a queue."""

from __future__ import annotations

from typing import Any

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, some


def _write(backbone: State, twin: State) -> Any:
    head = some("fc.0.weight", "fc.0.bias", "fc.2.weight")
    state = {
        **prefixed("encoder_q.", {**backbone, **head}),
        **prefixed("encoder_k.", {**twin, **head}),
        **some("queue", "queue_ptr"),
    }
    return {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": prefixed("module.", state),
        "optimizer": {"state": {0: {"momentum_buffer": backbone["conv1.weight"]}}},
    }


LAYOUT = layout(
    "moco",
    "facebookresearch/moco 132aea9 main_moco.py, moco/builder.py; salesforce/PCL 964da1f",
    _write,
    left_out=frozenset({"projector", "queue", "optimizer", "the key encoder"}),
    twin="encoder_k",
)
