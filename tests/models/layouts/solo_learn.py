"""solo-learn on ImageNet: an online and a momentum ResNet with heads and classifiers."""

from __future__ import annotations

from typing import Any

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, some


def _write(backbone: State, twin: State) -> Any:
    state = {
        **prefixed("backbone.", backbone),
        **prefixed("momentum_backbone.", twin),
        **some("projector.0.weight", "momentum_projector.0.weight", "predictor.0.weight", "classifier.weight"),
    }
    return {"pytorch-lightning_version": "1.6.4", "state_dict": state, "optimizer_states": []}


LAYOUT = layout(
    "solo_learn",
    "vturrisi/solo-learn 9187ea3 solo/methods",
    _write,
    left_out=frozenset({"projector", "predictor", "classifier", "the momentum network"}),
    twin="momentum_backbone",
)
