"""MAE, fine-tuned: the norm comes after the mean."""

from __future__ import annotations

from tests.models.reference_vit import SourceVit, make_vit, to_size
from tests.models.vit_layouts import layout, mae_tuned, published

LAYOUT = layout(
    "mae",
    mae_tuned,
    lambda: make_vit(positions=to_size),
    feature=SourceVit.normed_mean,
    left_out=frozenset({"classifier"}),
    published={"vith14": published(mae_tuned, 1280, 32, 16, "vit_huge_patch14", patch=14, grid=16)},
)
