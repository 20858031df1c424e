"""transformers' ViTMAE for pre-training: its decoder lies beside."""

from __future__ import annotations

from tests.models.reference_vit import SourceVit, make_vit, to_size
from tests.models.vit_layouts import Directory, layout, transformers_vit


def write(source: SourceVit) -> Directory:
    """huggingface/transformers 5.24.0 models/vit_mae."""
    return Directory(transformers_vit(source, prefix="vit."), {"model_type": "vit_mae", "num_attention_heads": 2})


LAYOUT = layout(
    "transformers_vit",
    write,
    lambda: make_vit(eps=1e-12, positions=to_size),
    known_heads=True,
    left_out=frozenset({"mask token"}),
)
