"""Franca: chunked blocks with SwiGLU at every size."""

from __future__ import annotations

from tests.models.reference_vit import make_vit
from tests.models.vit_layouts import franca, layout, published

LAYOUT = layout(
    "franca",
    franca,
    lambda: make_vit(scales=True, gated=True, depth=4, hidden=171),
    left_out=frozenset({"mask token", "projector"}),
    published={
        "vitb14": published(
            franca, 768, 12, 12, "vit_base_patch14", patch=14, grid=37, scales=True, hidden=2048, gated=True
        ),
        "vitl14": published(
            franca, 1024, 24, 16, "vit_large_patch14", patch=14, grid=16, scales=True, hidden=2736, gated=True
        ),
        "vitg14": published(
            franca, 1536, 40, 24, "vit_width1536", patch=14, grid=16, scales=True, hidden=4096, gated=True
        ),
    },
)
