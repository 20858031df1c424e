"""lightly's MAE with a ViT: `backbone`, with its mask token, and a decoder."""

from __future__ import annotations

from typing import Any

import torch

from tests.models.layouts import prefixed
from tests.models.reference_vit import SourceVit, antialiased, make_vit
from tests.models.vit_layouts import fused, layout, published


def _write(source: SourceVit) -> Any:
    """lightly-ai/lightly 7e9c0ce benchmarks/imagenet/vitb16/mae.py, 01da385 masked_vision_transformer_timm.py."""
    state = {
        **prefixed("backbone.vit.", {**fused(source), "head.weight": torch.randn(10, source.width)}),
        "backbone.mask_token": torch.randn(1, 1, source.width),
        "decoder.mask_token": torch.randn(1, 1, 6),
        "decoder.decoder_blocks.0.attn.qkv.weight": torch.randn(6, 6),
        "online_classifier.classification_head.weight": torch.randn(10, 4),
    }
    return {"pytorch-lightning_version": "2.4.0", "state_dict": state, "optimizer_states": []}


LAYOUT = layout(
    "lightly",
    _write,
    lambda: make_vit(positions=antialiased),
    left_out=frozenset({"decoder", "classifier", "mask token"}),
    published={"vitb16": published(_write, 768, 12, 12, "vit_base_patch16")},
)
