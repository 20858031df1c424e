"""DINOv2's trainer: the teacher with both heads."""

from __future__ import annotations

from tests.models.reference_vit import make_vit
from tests.models.vit_layouts import dinov2_run, layout

LAYOUT = layout("dinov2", dinov2_run, lambda: make_vit(scales=True), left_out=frozenset({"mask token", "projector"}))
