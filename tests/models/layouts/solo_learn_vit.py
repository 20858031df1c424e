"""solo-learn with a ViT of timm: learnt position embeddings."""

from __future__ import annotations

from typing import Any

import torch

from tests.models.layouts import prefixed
from tests.models.reference_vit import SourceVit, antialiased, make_vit
from tests.models.vit_layouts import CIFAR_MEAN, CIFAR_STD, fused, layout, published, twin


def _write(source: SourceVit) -> Any:
    """vturrisi/solo-learn 7af3e44 solo/backbones/vit/vit.py, 9187ea3 solo/methods/dino.py."""
    heads = ("head.mlp.0.weight", "momentum_head.mlp.0.weight", "classifier.weight", "momentum_classifier.weight")
    state = {
        **prefixed("backbone.", fused(source)),
        **prefixed("momentum_backbone.", fused(twin(source))),
        **{name: torch.randn(4, 4) for name in heads},
        "dino_loss_func.center": torch.randn(1, 4),
    }
    return {"pytorch-lightning_version": "1.6.4", "state_dict": state, "optimizer_states": []}


LAYOUT = layout(
    "solo_learn",
    _write,
    lambda: make_vit(positions=antialiased),
    twins=("momentum_backbone",),
    left_out=frozenset({"projector", "classifier", "loss", "the momentum network"}),
    published={"vits16": published(_write, 384, 12, 6, "vit_small_patch16", fixed=False)},
    mean=CIFAR_MEAN,
    std=CIFAR_STD,
)
