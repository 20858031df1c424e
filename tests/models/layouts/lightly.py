"""A ResNet of lightly's examples: its children by number, and a momentum twin."""

from __future__ import annotations

from typing import Any

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, some


def _write(backbone: State, twin: State) -> Any:
    state = {
        **prefixed("backbone.", _numbered(backbone)),
        **prefixed("backbone_momentum.", _numbered(twin)),
        **some("projection_head.layers.0.weight", "projection_head_momentum.layers.0.weight"),
        **some("prediction_head.layers.0.weight"),
    }
    return {"pytorch-lightning_version": "2.4.0", "state_dict": state, "optimizer_states": []}


def _numbered(state: State) -> State:
    order = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    parts = {name: name.split(".", 1) for name in state}
    return {f"{order.index(first)}.{rest}": state[name] for name, (first, rest) in parts.items()}


LAYOUT = layout(
    "lightly",
    "lightly-ai/lightly e8d317fc examples/pytorch_lightning/byol.py",
    _write,
    left_out=frozenset({"projector", "predictor", "the twin backbone_momentum"}),
    twin="backbone_momentum",
)
