"""lightly's benchmarks with a ResNet: torchvision's names, an online classifier, and the twin that is trained."""

from __future__ import annotations

from typing import Any

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, some


def _write(backbone: State, twin: State) -> Any:
    state = {
        **prefixed("backbone.", backbone),
        **prefixed("student_backbone.", twin),
        **some("projection_head.layers.0.weight", "student_projection_head.layers.0.weight"),
        **some("criterion.center.center", "online_classifier.classification_head.weight"),
    }
    return {"pytorch-lightning_version": "2.4.0", "state_dict": state, "optimizer_states": []}


LAYOUT = layout(
    "lightly",
    "lightly-ai/lightly 106fec9 benchmarks/imagenet/resnet50/dino.py, 0c16c4a knn_eval.py",
    _write,
    left_out=frozenset({"projector", "classifier", "loss", "the twin student_backbone"}),
    twin="student_backbone",
)
