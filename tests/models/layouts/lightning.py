"""A module of PyTorch Lightning with its network as `encoder`."""

from __future__ import annotations

from typing import Any

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, some


def _write(backbone: State, twin: State) -> Any:
    state = {**prefixed("encoder.", {**backbone, **some("fc.weight")}), **some("classifier.weight")}
    return {"pytorch-lightning_version": "2.4.0", "epoch": 3, "state_dict": state, "optimizer_states": []}


LAYOUT = layout(
    "lightning",
    "Lightning-AI/pytorch-lightning 2.6.6",
    _write,
    left_out=frozenset({"classifier"}),
)
