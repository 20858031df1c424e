"""transformers' I-JEPA: no class token."""

from __future__ import annotations

from tests.models.reference_vit import SourceVit, make_vit, to_size
from tests.models.vit_layouts import Directory, layout, transformers_vit


def write(source: SourceVit) -> Directory:
    """huggingface/transformers 5.24.0 models/ijepa."""
    return Directory(
        transformers_vit(source), {"model_type": "ijepa", "num_attention_heads": 2, "layer_norm_eps": 1e-6}
    )


LAYOUT = layout(
    "transformers_vit",
    write,
    lambda: make_vit(cls=False, positions=to_size),
    feature=SourceVit.mean,
    known_heads=True,
    left_out=frozenset({"mask token"}),
)
