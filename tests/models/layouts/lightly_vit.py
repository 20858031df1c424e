"""lightly's DINOv2 with a ViT: the teacher alone is evaluated; its student, heads and mask tokens beside."""

from __future__ import annotations

from typing import Any

import torch

from tests.models.layouts import State, prefixed
from tests.models.reference_vit import SourceVit, make_vit, to_size
from tests.models.vit_layouts import fused, layout, published, twin


def _write(source: SourceVit) -> Any:
    """lightly-ai/lightly 02c788d benchmarks/imagenet/vitb16/dinov2.py, 01da385 masked_vision_transformer_timm.py."""
    state: State = {}
    for name, network in (("teacher_backbone", source), ("student_backbone", twin(source))):
        head = {"head.weight": torch.randn(10, source.width), "head.bias": torch.randn(10)}
        state |= prefixed(f"{name}.vit.", {**fused(network), **head})
        state[f"{name}.mask_token"] = torch.randn(1, 1, source.width)
    for whose in ("teacher", "student"):
        for kind in ("dino", "ibot"):
            state[f"{whose}_{kind}_head._{kind}_head.layers.0.weight"] = torch.randn(3, 3)
    state["dino_criterion.center.center"] = torch.randn(1, 1, 4)
    state["online_classifier.classification_head.weight"] = torch.randn(10, 4)
    return {"pytorch-lightning_version": "2.4.0", "state_dict": state, "optimizer_states": []}


LAYOUT = layout(
    "lightly",
    _write,
    lambda: make_vit(scales=True, positions=to_size),
    twins=("student_backbone",),
    left_out=frozenset({"the twin student_backbone", "projector", "loss", "classifier", "mask token"}),
    published={"vits16": published(_write, 384, 12, 6, "vit_small_patch16", scales=True)},
)
