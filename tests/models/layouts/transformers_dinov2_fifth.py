"""transformers' DINOv2 with SwiGLU, as version 5 has it in memory: gate and value apart."""

from __future__ import annotations

from tests.models.reference_vit import SourceVit, make_vit, to_size
from tests.models.vit_layouts import Directory, layout, transformers_vit


def write(source: SourceVit) -> Directory:
    """huggingface/transformers 5.24.0 models/dinov2."""
    return Directory(
        transformers_vit(source, scales="dinov2", fifth=True), {"model_type": "dinov2", "num_attention_heads": 2}
    )


LAYOUT = layout(
    "transformers_vit",
    write,
    lambda: make_vit(scales=True, gated=True, positions=to_size),
    known_heads=True,
    left_out=frozenset({"mask token"}),
)
