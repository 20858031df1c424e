"""mmselfsup's MoCo v3 with a ViT: an average of backbone and neck beside."""

from __future__ import annotations

from typing import Any

import torch

from tests.models.layouts import prefixed
from tests.models.layouts.mmpretrain_mae import renamed
from tests.models.reference_vit import SourceVit, make_vit, to_size, with_fixed_positions
from tests.models.vit_layouts import layout, published, twin


def _write(source: SourceVit) -> Any:
    """open-mmlab/mmpretrain 326bc0c mmpretrain/models/selfsup/mocov3.py (CosineEMA of backbone and neck)."""
    heads = ("neck.fc0.weight", "momentum_encoder.module.1.fc0.weight", "head.predictor.fc0.weight")
    state = {
        **prefixed("backbone.", renamed(source)),
        **prefixed("momentum_encoder.module.0.", renamed(twin(source))),
        **{name: torch.randn(4, 4) for name in heads},
        "momentum_encoder.steps": torch.tensor(9),
    }
    return {"meta": {"epoch": 3}, "state_dict": state}


LAYOUT = layout(
    "mmpretrain_vit",
    _write,
    lambda: with_fixed_positions(make_vit(positions=to_size)),
    twins=("momentum_encoder",),
    left_out=frozenset({"projector or decoder", "projector", "predictor, head or classifier", "the momentum encoder"}),
    published={"vits16": published(_write, 384, 12, 12, "vit_small_heads12_patch16", fixed=True)},
)
