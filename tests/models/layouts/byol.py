"""BYOL-PyTorch's trainer: online and target network of numbered children, each with a projector, and a predictor."""

from __future__ import annotations

from typing import Any

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, numbered, some


def _write(backbone: State, twin: State) -> Any:
    state = {
        **prefixed("online_network.encoder.", numbered(backbone)),
        **prefixed("target_network.encoder.", numbered(twin)),
        **some(
            "online_network.projetion.l1.weight", "target_network.projetion.l1.weight", "predictor.predictor.l1.weight"
        ),
    }
    return {
        "config": {"model": {"backbone": {"type": "resnet50"}}},
        "epoch": 300,
        "steps": 9,
        "model": prefixed("module.", state),
        "optimizer": {"state": {0: {"momentum_buffer": backbone["conv1.weight"]}}},
        "amp": {"loss_scaler0": {"loss_scale": 1.0}},
    }


LAYOUT = layout(
    "byol",
    "yaox12/BYOL-PyTorch edefc01 model/byol_model.py, model/basic_modules.py, trainer/byol_trainer.py",
    _write,
    left_out=frozenset({"the target network", "projector", "predictor", "optimizer"}),
    twin="target",
)
