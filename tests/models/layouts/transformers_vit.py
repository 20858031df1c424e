"""transformers' ViT for classification, as `save_pretrained` writes it: prefix, pooler, classifier, default eps."""

from __future__ import annotations

from tests.models.reference_vit import SourceVit, make_vit, to_size
from tests.models.vit_layouts import Directory, layout, transformers_vit

PROCESSOR = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def write(source: SourceVit) -> Directory:
    """huggingface/transformers 5.24.0 models/vit."""
    config = {"model_type": "vit", "num_attention_heads": 2, "hidden_act": "gelu"}
    return Directory(transformers_vit(source, prefix="vit."), config, PROCESSOR)


LAYOUT = layout(
    "transformers_vit",
    write,
    lambda: make_vit(eps=1e-12, positions=to_size),
    known_heads=True,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    left_out=frozenset({"pooler", "mask token", "classifier"}),
)
