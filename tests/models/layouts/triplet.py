"""Triplet's raw runs: the online network first, every tensor of its backbone once more as `backbone`."""

from __future__ import annotations

from typing import Any

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, some


def _write(backbone: State, twin: State) -> Any:
    heads = [f"{net}.1.mlp.{part}" for net in ("online_net", "target_net") for part in ("0.weight", "1.running_mean")]
    state = {
        **prefixed("online_net.0.", backbone),
        **prefixed("target_net.0.", twin),
        **prefixed("backbone.", backbone),
        **some(*heads, "head.predictor.mlp.0.weight"),
    }
    return {"meta": {"epoch": 980, "iter": 9, "mmcv_version": "1.0.3"}, "state_dict": state, "optimizer": {"state": {}}}


LAYOUT = layout(
    "openselfsup",
    "wanggrun/triplet 4b4632d openselfsup/models/triplet.py, heads/triplet_loss_head.py",
    _write,
    left_out=frozenset(
        {
            "projector",
            "the target network",
            "the online network, which the backbone is",
            "predictor, head or classifier",
        }
    ),
    twin="target_net",
)
