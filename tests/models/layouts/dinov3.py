"""DINOv3's ViT-S, B and L: rotary positions, storage tokens, a mask over the biases of keys."""

from __future__ import annotations

from typing import Any

from tests.models.reference_vit import make_vit
from tests.models.vit_layouts import dinov3, layout, published

OPTIONS: dict[str, Any] = {
    "periods": True,
    "scales": True,
    "registers": 4,
    "grid": None,
    "key_bias": False,
    "eps": 1e-5,
}

LAYOUT = layout(
    "dinov3",
    dinov3,
    lambda: make_vit(**OPTIONS),
    crop=224,
    known_heads=True,
    left_out=frozenset({"mask token", "norm of local crops in training"}),
    published={
        "vits16": published(dinov3, 384, 12, 6, "dinov3_vit_width384", **OPTIONS),
        "vitb16": published(dinov3, 768, 12, 12, "dinov3_vit_width768", **OPTIONS),
        "vitl16": published(dinov3, 1024, 24, 16, "dinov3_vit_width1024", **OPTIONS),
    },
)
