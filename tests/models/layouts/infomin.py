"""InfoMin: the momentum encoder under a key that libraries prefer, and must not be taken."""

from __future__ import annotations

from typing import Any

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, some


def _write(backbone: State, twin: State) -> Any:
    heads = some("head.0.weight", "head.2.bias", "head_jig.fc1.weight")
    return {
        "opt": {"epochs": 800},
        "epoch": 800,
        "model": prefixed("module.", {**prefixed("encoder.", backbone), **heads}),
        "model_ema": {**prefixed("encoder.", twin), **heads},
        "contrast": some("memory"),
        "optimizer": {"state": {}},
    }


LAYOUT = layout(
    "infomin",
    "HobbitLong/PyContrast 84f94ea pycontrast/learning/contrast_trainer.py",
    _write,
    left_out=frozenset({"projector", "memory", "the momentum encoder"}),
    twin="model_ema",
)
