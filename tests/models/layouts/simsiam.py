"""SimSiam: the projector is the encoder's `fc`."""

from __future__ import annotations

from typing import Any

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, some


def _write(backbone: State, twin: State) -> Any:
    state = {
        **prefixed("encoder.", {**backbone, **some("fc.0.weight", "fc.1.running_var", "fc.6.bias")}),
        **some("predictor.0.weight", "predictor.1.weight", "predictor.3.bias"),
    }
    return {"epoch": 100, "arch": "resnet50", "state_dict": prefixed("module.", state), "optimizer": {"state": {}}}


LAYOUT = layout(
    "simsiam",
    "facebookresearch/simsiam a7bc177 main_simsiam.py, simsiam/builder.py",
    _write,
    left_out=frozenset({"projector", "predictor"}),
)
