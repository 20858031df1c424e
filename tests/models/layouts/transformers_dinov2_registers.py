"""transformers' DINOv2 with registers and SwiGLU: the class token keeps its position."""

from __future__ import annotations

from tests.models.reference_vit import SourceVit, antialiased, make_vit
from tests.models.vit_layouts import Directory, layout, transformers_vit


def write(source: SourceVit) -> Directory:
    """huggingface/transformers 5.24.0 models/dinov2_with_registers."""
    return Directory(
        transformers_vit(source, scales="dinov2"), {"model_type": "dinov2_with_registers", "num_attention_heads": 2}
    )


LAYOUT = layout(
    "transformers_vit",
    write,
    lambda: make_vit(scales=True, registers=4, gated=True, positions=antialiased),
    known_heads=True,
    left_out=frozenset({"mask token"}),
)
