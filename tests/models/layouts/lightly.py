"""A ResNet of lightly's examples: its children by number, and a momentum twin."""

from __future__ import annotations

from typing import Any

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, numbered, some


def _write(backbone: State, twin: State) -> Any:
    state = {
        **prefixed("backbone.", numbered(backbone)),
        **prefixed("backbone_momentum.", numbered(twin)),
        **some("projection_head.layers.0.weight", "projection_head_momentum.layers.0.weight"),
        **some("prediction_head.layers.0.weight"),
    }
    return {"pytorch-lightning_version": "2.4.0", "state_dict": state, "optimizer_states": []}


LAYOUT = layout(
    "lightly",
    "lightly-ai/lightly 0e4125d examples/pytorch_lightning/moco.py",
    _write,
    left_out=frozenset({"projector", "predictor", "the twin backbone_momentum"}),
    twin="backbone_momentum",
)
