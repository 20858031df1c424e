"""DINOv2's backbone files with registers, which have no positions."""

from __future__ import annotations

from tests.models.reference_vit import antialiased, make_vit
from tests.models.vit_layouts import dinov2, layout, published

LAYOUT = layout(
    "dinov2",
    dinov2,
    lambda: make_vit(scales=True, registers=4, positions=antialiased),
    left_out=frozenset({"mask token"}),
    published={
        "vits14": published(dinov2, 384, 12, 6, "vit_small_patch14", patch=14, grid=37, scales=True, registers=4),
    },
)
