"""open_clip with timm's image tower: SigLIP's, which projects nothing; its directory says how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch

from tests.models.layouts import Layout, Made, antialiased_positions, at_any_size, filled, prefixed


def make(folder: Path) -> Made:
    network: Any = filled(timm.create_model("test_vit3", num_classes=0, global_pool="map"), 5)
    text = {"text.transformer.resblocks.0.mlp.c_fc.weight": torch.randn(3, 3), "logit_bias": torch.zeros(1)}
    content = {**prefixed("visual.trunk.", network.state_dict()), **text, "logit_scale": torch.zeros(1)}
    torch.save(content, folder / "open_clip_pytorch_model.bin")
    vision = {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none"}
    fed = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model_cfg": {"vision_cfg": vision}, "preprocess_cfg": fed}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return Made(
        path=folder,
        source=at_any_size(network, antialiased_positions),
        side=160,
        other_side=96,
        crop=160,
        heads=3,
        patch=16,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        left_out=frozenset({"text tower", "scale of the loss"}),
    )


LAYOUT = Layout(
    adapter="open_clip_trunk",
    read_in="mlfoundations/open_clip 89fb801 src/open_clip/timm_model.py, push_to_hf_hub.py",
    make=make,
)
