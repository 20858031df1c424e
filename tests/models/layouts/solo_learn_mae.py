"""solo-learn's MAE: a ViT with 12 heads up to `vit_base`, fixed position embeddings, and a decoder."""

from __future__ import annotations

from typing import Any

import torch

from tests.models.layouts import prefixed
from tests.models.reference_vit import SourceVit, make_vit, with_fixed_positions
from tests.models.vit_layouts import CIFAR_MEAN, CIFAR_STD, fused, layout, published


def _write(source: SourceVit) -> Any:
    """vturrisi/solo-learn 14be766 solo/methods/mae.py, 15824b4 solo/backbones/vit/vit_mae.py."""
    decoder = ("decoder_embed.weight", "mask_token", "decoder_blocks.0.attn.qkv.weight", "decoder_pred.weight")
    state = {
        **prefixed("backbone.", fused(source)),
        **{f"decoder.{name}": torch.randn(4, 4) for name in decoder},
        "classifier.weight": torch.randn(4, 4),
    }
    return {"pytorch-lightning_version": "1.6.4", "state_dict": state, "optimizer_states": []}


LAYOUT = layout(
    "solo_learn",
    _write,
    lambda: with_fixed_positions(make_vit()),
    any_size=False,
    left_out=frozenset({"decoder", "classifier"}),
    published={
        "vits16": published(_write, 384, 12, 12, "vit_small_heads12_patch16", fixed=True),
        "vitb16": published(_write, 768, 12, 12, "vit_base_patch16", fixed=True),
    },
    mean=CIFAR_MEAN,
    std=CIFAR_STD,
)
