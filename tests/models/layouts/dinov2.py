"""DINOv2's backbone files without registers."""

from __future__ import annotations

from typing import Any

from tests.models.reference_vit import make_vit
from tests.models.vit_layouts import dinov2, layout, published

PUBLISHED: dict[str, Any] = {"patch": 14, "grid": 37, "scales": True}

LAYOUT = layout(
    "dinov2",
    dinov2,
    lambda: make_vit(scales=True),
    left_out=frozenset({"mask token"}),
    published={
        "vits14": published(dinov2, 384, 12, 6, "vit_small_patch14", **PUBLISHED),
        "vitb14": published(dinov2, 768, 12, 12, "vit_base_patch14", **PUBLISHED),
        "vitl14": published(dinov2, 1024, 24, 16, "vit_large_patch14", **PUBLISHED),
        "vitg14": published(dinov2, 1536, 40, 24, "vit_width1536", hidden=4096, gated=True, **PUBLISHED),
    },
)
