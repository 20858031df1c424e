"""transformers' ViTMSN, as version 5 has it in memory: its authors set the norm aside that it applies."""

from __future__ import annotations

from tests.models.reference_vit import SourceVit, make_vit, to_size
from tests.models.vit_layouts import Directory, layout, transformers_vit


def write(source: SourceVit) -> Directory:
    """huggingface/transformers 5.24.0 models/vit_msn."""
    return Directory(transformers_vit(source, fifth=True), {"model_type": "vit_msn", "num_attention_heads": 2})


LAYOUT = layout(
    "transformers_vit",
    write,
    lambda: make_vit(positions=to_size),
    feature=SourceVit.token_before_norm,
    known_heads=True,
    left_out=frozenset({"mask token"}),
)
