"""MAE: the encoder alone, as published."""

from __future__ import annotations

from tests.models.reference_vit import make_vit, to_size, with_fixed_positions
from tests.models.vit_layouts import layout, mae_encoder

LAYOUT = layout("mae", mae_encoder, lambda: with_fixed_positions(make_vit(positions=to_size)))
