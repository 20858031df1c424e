"""stable-pretraining's MAE: the encoder around a ViT of timm, whose patch embedding has two names; a decoder."""

from __future__ import annotations

from typing import Any

import torch

from tests.models.layouts import prefixed
from tests.models.reference_vit import SourceVit, make_vit
from tests.models.vit_layouts import fused, layout


def _write(source: SourceVit) -> Any:
    """galilai-group/stable-pretraining e4c2582 methods/mae.py, 16e9fe3 backbone/vit.py (MaskedEncoder)."""
    state = {
        **prefixed("encoder.vit.", fused(source)),
        "encoder.patch_embed.proj.weight": source.t["patch.w"],
        "encoder.patch_embed.proj.bias": source.t["patch.b"],
        "decoder.mask_token": torch.randn(1, 1, 8),
        "decoder.decoder_blocks.0.attn.qkv.weight": torch.randn(24, 8),
        "callbacks_modules.linear_probe.weight": torch.randn(10, source.width),
    }
    return {"pytorch-lightning_version": "2.5.0", "state_dict": state, "optimizer_states": []}


LAYOUT = layout(
    "stable_pretraining",
    _write,
    make_vit,
    feature=SourceVit.mean,
    left_out=frozenset({"decoder", "probes and metrics of callbacks", "the encoder's patch embedding once more"}),
)
