"""DINOv2's ViT-g: gate and value in one layer."""

from __future__ import annotations

from tests.models.reference_vit import make_vit
from tests.models.vit_layouts import dinov2, layout

LAYOUT = layout("dinov2", dinov2, lambda: make_vit(scales=True, gated=True), left_out=frozenset({"mask token"}))
