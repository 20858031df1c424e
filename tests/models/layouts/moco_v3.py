"""MoCo v3 with a ViT: base and momentum encoder, predictor, in one state dict."""

from __future__ import annotations

from tests.models.reference_vit import make_vit, with_fixed_positions
from tests.models.vit_layouts import layout, moco_v3, published

LAYOUT = layout(
    "moco_v3",
    moco_v3,
    lambda: with_fixed_positions(make_vit()),
    any_size=False,
    twins=("momentum_encoder",),
    left_out=frozenset({"projector", "predictor", "the momentum encoder", "optimizer"}),
    published={
        "vits16": published(moco_v3, 384, 12, 12, "vit_small_heads12_patch16"),
        "vitb16": published(moco_v3, 768, 12, 12, "vit_base_patch16"),
    },
)
