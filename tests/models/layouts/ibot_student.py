"""iBOT's 22k files: the student's backbone with `masked_embed`, without its head."""

from __future__ import annotations

from tests.models.reference_vit import make_vit
from tests.models.vit_layouts import ibot_student, layout, published

LAYOUT = layout(
    "timm_vit",
    ibot_student,
    make_vit,
    left_out=frozenset({"mask token"}),
    published={
        "vitb16": published(ibot_student, 768, 12, 12, "vit_base_patch16"),
        "vitl16": published(ibot_student, 1024, 24, 16, "vit_large_patch16"),
    },
)
