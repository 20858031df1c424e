"""DINOv3's 7B: SwiGLU, no biases of queries, keys and values."""

from __future__ import annotations

from tests.models.layouts.dinov3 import OPTIONS
from tests.models.reference_vit import make_vit
from tests.models.vit_layouts import dinov3, layout, published

LAYOUT = layout(
    "dinov3",
    dinov3,
    lambda: make_vit(**OPTIONS, gated=True, qkv_bias=False),
    crop=224,
    known_heads=True,
    left_out=frozenset({"mask token", "norm of local crops in training"}),
    published={
        "vit7b16": published(
            dinov3, 4096, 40, 32, "dinov3_vit_width4096", gated=True, qkv_bias=False, hidden=8192, **OPTIONS
        ),
    },
)
