"""mmpretrain's MAE: the encoder as `backbone`, its decoder as `neck`; fixed position embeddings, stored."""

from __future__ import annotations

from typing import Any

import torch

from tests.models.layouts import State, prefixed
from tests.models.reference_vit import SourceVit, make_vit, to_size, with_fixed_positions
from tests.models.vit_layouts import fused, layout, published


def renamed(source: SourceVit) -> State:
    """Returns a state dict in OpenMMLab's names."""
    rules = [
        ("patch_embed.proj.", "patch_embed.projection."), ("norm.", "ln1."), (".norm1.", ".ln1."), (".norm2.", ".ln2."),
        (".mlp.fc1.", ".ffn.layers.0.0."), (".mlp.fc2.", ".ffn.layers.1."), ("blocks.", "layers."),
    ]  # fmt: skip

    def new(name: str) -> str:
        for old, to in rules:
            if name.startswith(old) or (old.startswith(".") and old in name):
                name = name.replace(old, to, 1)
        return name

    return {new(name): tensor for name, tensor in fused(source).items()}


def _write(source: SourceVit) -> Any:
    """open-mmlab/mmpretrain 08dc8c7 mmpretrain/models/selfsup/mae.py, 00030e3 backbones/vision_transformer.py."""
    width = source.width
    decoder = {"mask_token": torch.randn(1, 1, width), "decoder_blocks.0.ln1.weight": torch.randn(width)}
    decoder["decoder_blocks.0.attn.qkv.weight"] = torch.randn(3 * width, width)
    state = {**prefixed("backbone.", renamed(source)), **prefixed("neck.", decoder)}
    state["data_preprocessor.mean"] = torch.randn(3, 1, 1)
    return {"meta": {"epoch": 3}, "message_hub": {}, "state_dict": state, "optimizer": {"state": {}}}


LAYOUT = layout(
    "mmpretrain_vit",
    _write,
    lambda: with_fixed_positions(make_vit(positions=to_size)),
    left_out=frozenset({"projector or decoder", "mean and deviation of images"}),
    published={"vith14": published(_write, 1280, 32, 16, "vit_huge_patch14", patch=14, grid=16, fixed=True)},
)
