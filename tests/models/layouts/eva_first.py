"""EVA-01, fine-tuned, as DeepSpeed saves it: no rotations; the norm after pooling, and a classifier."""

from __future__ import annotations

from typing import Any

import torch

from tests.models.layouts.eva import Eva, eva_layout, published_eva


def tuned(network: Eva) -> Any:
    """Returns a file of EVA-01/eva/run_class_finetuning.py."""
    width = len(network.t["cls_token"].flatten())
    head = {"head.weight": torch.randn(10, width), "head.bias": torch.randn(10)}
    return {"module": {**network.t, **head}, "epoch": 3}


LAYOUT = eva_layout(
    frozenset({"classifier"}),
    known_heads=False,
    write=tuned,
    mlp="plain",
    fused=True,
    rotary=False,
    norm="fc_norm",
    published={"giant": published_eva(1408, 40, 16, 6144, mlp="plain", fused=True, rotary=False)},
)
