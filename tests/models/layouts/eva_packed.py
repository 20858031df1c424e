"""EVA-02's tiny and small: gate and value as one layer, queries, keys and values too."""

from __future__ import annotations

from tests.models.layouts.eva import PREDICTION, eva_layout, published_eva

LAYOUT = eva_layout(
    PREDICTION | {"rotary table, which is computed"},
    mlp="packed",
    fused=True,
    published={
        "tiny": published_eva(192, 12, 3, 512, mlp="packed", fused=True),
        "small": published_eva(384, 12, 6, 1024, mlp="packed", fused=True),
    },
)
