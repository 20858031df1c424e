"""byol-pytorch's learner: the network twice, its target, projectors and predictor, flat."""

from __future__ import annotations

from typing import Any

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, some


def _write(backbone: State, twin: State) -> Any:
    whole = {**backbone, **some("fc.weight")}
    return {
        **prefixed("net.", whole),
        **prefixed("online_encoder.net.", whole),
        **prefixed("target_encoder.net.", {**twin, **some("fc.weight")}),
        **some("online_encoder.projector.0.weight", "target_encoder.projector.0.weight", "online_predictor.0.weight"),
    }


LAYOUT = layout(
    "byol",
    "lucidrains/byol-pytorch 0095aa4 byol_pytorch/byol_pytorch.py",
    _write,
    left_out=frozenset({"the target network", "projector", "predictor", "the network, which the online one is"}),
    twin="target",
)
