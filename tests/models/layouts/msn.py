"""MSN: encoder, target encoder, prototypes; heads inside both."""

from __future__ import annotations

from tests.models.reference_vit import SourceVit, make_vit, one_scale
from tests.models.vit_layouts import layout, msn, published

LAYOUT = layout(
    "msn",
    msn,
    lambda: make_vit(positions=one_scale),
    feature=SourceVit.token_before_norm,
    twins=("encoder",),
    left_out=frozenset({"projector", "prototypes", "optimizer", "the encoder that is trained"}),
    published={
        "vits16": published(msn, 384, 12, 6, "vit_small_patch16"),
        "vitb16": published(msn, 768, 12, 12, "vit_base_patch16"),
        "vitl16": published(msn, 1024, 24, 16, "vit_large_patch16"),
        "vitb4": published(msn, 768, 12, 12, "vit_base_patch4", patch=4, grid=56),
        "vitl7": published(msn, 1024, 24, 16, "vit_large_patch7", patch=7, grid=32),
    },
)
