"""A directory that timm saved: its config says pooling, mean, std and size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from timm.models import save_for_hf

from tests.models.layouts import Layout, Made, filled


def make(folder: Path) -> Made:
    arguments: dict[str, Any] = {
        "img_size": 48,
        "patch_size": 8,
        "embed_dim": 64,
        "depth": 2,
        "num_heads": 4,
        "global_pool": "avg",
    }
    network = filled(timm.create_model("vit_tiny_patch16_224", num_classes=3, **arguments), seed=6)
    config = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "crop_pct": 1.0, "input_size": (3, 48, 48)}
    network.pretrained_cfg.update(config)
    save_for_hf(network, str(folder), model_args=arguments, safe_serialization=True)
    network.reset_classifier(0)
    return Made(
        path=folder,
        source=network,
        side=48,
        other_side=None,
        crop=48,
        heads=4,
        patch=8,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        left_out=frozenset({"classifier"}),
    )


LAYOUT = Layout(adapter="timm_dir", read_in="timm 1.0.31 _hub.py (save_for_hf)", make=make)
