"""MAE with its decoder, as its trainer writes it."""

from __future__ import annotations

from tests.models.reference_vit import make_vit, to_size, with_fixed_positions
from tests.models.vit_layouts import layout, mae_pretraining, published

LAYOUT = layout(
    "mae",
    mae_pretraining,
    lambda: with_fixed_positions(make_vit(positions=to_size)),
    left_out=frozenset({"mask token", "decoder", "optimizer"}),
    published={
        "vitb16": published(mae_pretraining, 768, 12, 12, "vit_base_patch16"),
        "vitl16": published(mae_pretraining, 1024, 24, 16, "vit_large_patch16"),
        "vith14": published(mae_pretraining, 1280, 32, 16, "vit_huge_patch14", patch=14, grid=16),
    },
)
