"""lightly-train's SimCLR with a ViT of timm, in an older version's names."""

from __future__ import annotations

from typing import Any

import torch

from tests.models.layouts import prefixed
from tests.models.layouts.lightly_train import own_part
from tests.models.reference_vit import SourceVit, make_vit
from tests.models.vit_layouts import fused, layout


def _write(source: SourceVit) -> Any:
    """lightly-ai/lightly-train 9e042ba _methods/simclr/simclr.py, fe05880 embedding_model.py, 04e106d timm/timm.py."""
    state = {
        **prefixed("embedding_model.model_wrapper._model.", {**fused(source), "head.weight": torch.randn(9, 64)}),
        "projection_head.layers.0.weight": torch.randn(3, 3),
    }
    return {"pytorch-lightning_version": "2.4.0", "state_dict": state, "lightly_train": own_part()}


LAYOUT = layout(
    "lightly_train",
    _write,
    make_vit,
    feature=SourceVit.mean,
    left_out=frozenset({"projector", "classifier"}),
)
