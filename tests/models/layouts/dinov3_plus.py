"""DINOv3's ViT-S+, H+: SwiGLU in three layers."""

from __future__ import annotations

from tests.models.layouts.dinov3 import OPTIONS
from tests.models.reference_vit import make_vit
from tests.models.vit_layouts import dinov3, layout, published

LAYOUT = layout(
    "dinov3",
    dinov3,
    lambda: make_vit(**OPTIONS, gated=True),
    crop=224,
    known_heads=True,
    left_out=frozenset({"mask token", "norm of local crops in training"}),
    published={
        "vits16plus": published(dinov3, 384, 12, 6, "dinov3_vit_width384", gated=True, **OPTIONS),
        "vith16plus": published(dinov3, 1280, 32, 20, "dinov3_vit_width1280", gated=True, **OPTIONS),
    },
)
