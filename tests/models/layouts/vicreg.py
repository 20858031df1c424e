"""VICReg's trainer: backbone and projector."""

from __future__ import annotations

from typing import Any

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, some


def _write(backbone: State, twin: State) -> Any:
    state = {**prefixed("backbone.", backbone), **some("projector.0.weight", "projector.1.running_mean")}
    return {"epoch": 1000, "model": prefixed("module.", state), "optimizer": {"state": {}}}


LAYOUT = layout(
    "vicreg",
    "facebookresearch/vicreg 4e12602 main_vicreg.py",
    _write,
    left_out=frozenset({"projector"}),
)
