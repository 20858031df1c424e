"""stable-pretraining's SimCLR with a ResNet: a backbone, a projector, and callbacks' probes and metrics."""

from __future__ import annotations

from typing import Any

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, some


def _write(backbone: State, twin: State) -> Any:
    state = {**prefixed("backbone.", backbone), **some("projector.0.weight", "callbacks_modules.probe.layer1.weight")}
    return {"pytorch-lightning_version": "2.5.0", "epoch": 3, "state_dict": state, "optimizer_states": []}


LAYOUT = layout(
    "stable_pretraining",
    "galilai-group/stable-pretraining 6bd8214 methods/simclr.py, module.py",
    _write,
    left_out=frozenset({"projector", "probes and metrics of callbacks"}),
)
