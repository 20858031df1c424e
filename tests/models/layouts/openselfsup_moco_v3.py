"""mmselfsup's MoCo v3 with a ResNet: the base encoder once more as `backbone`, its average in a module of its own."""

from __future__ import annotations

from typing import Any

import torch

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, some


def _write(backbone: State, twin: State) -> Any:
    state = {
        **prefixed("backbone.", backbone),
        **prefixed("base_encoder.0.", backbone),
        **prefixed("momentum_encoder.module.0.", twin),
        "momentum_encoder.steps": torch.tensor(9),
        **some("base_encoder.1.fc0.weight", "momentum_encoder.module.1.fc0.weight", "neck.fc0.weight"),
        **some("head.predictor.fc0.weight", "data_preprocessor.mean"),
    }
    return {"meta": {"epoch": 3}, "message_hub": {}, "state_dict": state, "optimizer": {"state": {}}}


LAYOUT = layout(
    "openselfsup",
    "open-mmlab/mmselfsup 0c88e8d mmselfsup/models/algorithms/mocov3.py; open-mmlab/mmengine averaged_model.py",
    _write,
    left_out=frozenset({"projector", "the momentum encoder", "the base encoder, which the backbone is"}),
    twin="momentum_encoder",
)
