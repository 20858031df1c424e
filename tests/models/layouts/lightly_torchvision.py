"""lightly's MAE with a ViT of torchvision: its own names below `backbone.vit`, a mask token beside, a decoder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from massl_bench.core.model_settings import ModelSettings
from tests.models.layouts import Layout, Made, filled, prefixed


def _network(side: int) -> VisionTransformer:
    return VisionTransformer(
        image_size=side, patch_size=8, num_layers=2, num_heads=2, hidden_dim=64, mlp_dim=128, num_classes=5
    )


def _at_any_size(network: VisionTransformer, images: Tensor) -> Tensor:
    """Resamples position embeddings as lightly does: one factor, the root of the ratio of the numbers of patches."""
    side = images.shape[-1]
    sized = _network(side)
    state = network.state_dict()
    positions = state["encoder.pos_embedding"]
    grid, scale = 4, side / 32
    learnt = positions[:, 1:].reshape(1, grid, grid, 64).permute(0, 3, 1, 2)
    resampled = nn.functional.interpolate(learnt, scale_factor=scale, mode="bicubic") if scale != 1 else learnt
    state["encoder.pos_embedding"] = torch.cat([positions[:, :1], resampled.flatten(2).transpose(1, 2)], dim=1)
    sized.load_state_dict(state)
    sized.heads = nn.Identity()
    with torch.no_grad():
        features: Tensor = sized.eval()(images)
    return features


def _make(folder: Path) -> Made:
    network = _network(32)
    filled(network, 3)
    state = prefixed("backbone.vit.", network.state_dict())
    state |= {"backbone.mask_token": torch.randn(1, 1, 64), "decoder.decoder_embed.weight": torch.randn(8, 64)}
    file = folder / "lightly.ckpt"
    torch.save({"pytorch-lightning_version": "2.4.0", "state_dict": state, "optimizer_states": []}, file)
    return Made(
        path=file,
        source=partial(_at_any_size, network),
        side=32,
        other_side=48,
        crop=32,
        heads=2,
        patch=8,
        settings=ModelSettings(num_heads=2),
        left_out=frozenset({"classifier", "mask token", "decoder"}),
    )


LAYOUT = Layout(
    adapter="lightly",
    read_in="lightly-ai/lightly 14315dd lightly/models/modules/masked_vision_transformer_torchvision.py; "
    "pytorch/vision vision_transformer.py",
    make=_make,
)
