"""lightly-train's DINOv2 with DINOv2's own ViT, blocks in chunks: its teacher, the mean of whose patches it embeds."""

from __future__ import annotations

from typing import Any

import torch

from tests.models.layouts import State, prefixed
from tests.models.layouts.lightly_train import own_part
from tests.models.reference_vit import SourceVit, make_vit
from tests.models.vit_layouts import fused, layout, published, twin


def _write(source: SourceVit) -> Any:
    """lightly-ai/lightly-train 0037c13 _methods/dinov2/dinov2.py, 03b292d _models/dinov2_vit/dinov2_vit.py."""
    state: State = {}
    for whose, network in (("teacher", source), ("student", twin(source))):
        names = {**fused(network, blocks="blocks.{1}.{0}."), "mask_token": torch.randn(1, source.width)}
        state |= prefixed(f"{whose}_embedding_model_wrapper._model.", names)
        state[f"{whose}_dino_head._dino_head.layers.0.weight"] = torch.randn(3, 3)
    return {
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {**state, "dino_loss.center": torch.randn(1, 4)},
        "lightly_train": own_part(),
    }


LAYOUT = layout(
    "lightly_train",
    _write,
    lambda: make_vit(scales=True),
    feature=SourceVit.mean,
    twins=("student",),
    left_out=frozenset({"projector", "loss", "the student", "mask token"}),
    published={
        "vits14": published(_write, 384, 12, 6, "vit_small_patch14", patch=14, grid=37, scales=True),
    },
)
