"""transformers' DINOv3 with SwiGLU, as version 5 has it in memory."""

from __future__ import annotations

from tests.models.reference_vit import SourceVit, make_vit, with_computed_periods
from tests.models.vit_layouts import Directory, layout, transformers_dinov3


def write(source: SourceVit) -> Directory:
    """huggingface/transformers 5.24.0 models/dinov3_vit."""
    return Directory(
        transformers_dinov3(source, prefix="model."),
        {"model_type": "dinov3_vit", "num_attention_heads": 2, "hidden_act": "silu"},
    )


LAYOUT = layout(
    "transformers_dinov3",
    write,
    lambda: with_computed_periods(
        make_vit(periods=True, scales=True, registers=4, grid=None, key_bias=False, eps=1e-5, gated=True)
    ),
    known_heads=True,
    crop=224,
    left_out=frozenset({"mask token"}),
)
