"""Barlow Twins' trainer: `bn` is the norm of the loss, not the backbone's `bn1`."""

from __future__ import annotations

from typing import Any

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, some


def _write(backbone: State, twin: State) -> Any:
    state = {
        **prefixed("backbone.", backbone),
        **some("projector.0.weight", "projector.1.running_mean", "bn.running_mean", "bn.running_var"),
    }
    return {"epoch": 1000, "model": prefixed("module.", state), "optimizer": {"state": {}}}


LAYOUT = layout(
    "barlow_twins",
    "facebookresearch/barlowtwins 8e8d284 main.py",
    _write,
    left_out=frozenset({"projector", "batch norm of the loss"}),
)
