"""I-JEPA: encoder, predictor, target encoder; no class token."""

from __future__ import annotations

from tests.models.reference_vit import SourceVit, make_vit
from tests.models.vit_layouts import ijepa, layout, published

LAYOUT = layout(
    "ijepa",
    ijepa,
    lambda: make_vit(cls=False),
    feature=SourceVit.mean,
    any_size=False,
    twins=("encoder",),
    left_out=frozenset({"predictor", "optimizer", "the encoder that is trained"}),
    published={
        "vith14": published(ijepa, 1280, 32, 16, "vit_huge_patch14", patch=14, grid=16, cls=False),
        "vith16-448": published(ijepa, 1280, 32, 16, "vit_huge_patch16", crop=448, grid=28, cls=False),
        "vitg16": published(ijepa, 1408, 40, 16, "vit_width1408", hidden=6144, cls=False),
    },
)
