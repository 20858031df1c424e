"""OpenSelfSup's BYOL, and Triplet: every tensor of the backbone twice, and a target network beside."""

from __future__ import annotations

from typing import Any

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, some


def _write(backbone: State, twin: State) -> Any:
    state = {
        **prefixed("backbone.", backbone),
        **prefixed("online_net.0.", backbone),
        **prefixed("target_net.0.", twin),
        **some("online_net.1.fc0.weight", "target_net.1.fc0.weight", "head.predictor.fc0.weight"),
    }
    return {"meta": {"epoch": 3, "iter": 9}, "state_dict": state, "optimizer": {"state": {}}}


LAYOUT = layout(
    "openselfsup",
    "open-mmlab/mmselfsup 5e67129 openselfsup/models/byol.py; wanggrun/triplet c1bbaa9",
    _write,
    left_out=frozenset({"projector", "the target network", "the online network, which the backbone is"}),
    twin="target_net",
)
