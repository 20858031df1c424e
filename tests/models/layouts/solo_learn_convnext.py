"""solo-learn with a ConvNeXt, in timm's names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch

from tests.models.layouts import Layout, Made, filled, prefixed


def make(folder: Path) -> Made:
    network: Any = timm.create_model("convnext_tiny", num_classes=0, dims=(16, 24, 32, 48), depths=(1, 1, 2, 1))
    heads = ("projector.0.weight", "predictor.0.weight", "classifier.weight", "queue")
    state = {
        **prefixed("backbone.", filled(network, 3).state_dict()),
        **{name: torch.randn(4, 4) for name in heads},
    }
    file = folder / "solo.ckpt"
    torch.save({"pytorch-lightning_version": "1.6.4", "state_dict": state, "optimizer_states": []}, file)
    return Made(
        path=file,
        source=network,
        side=64,
        other_side=96,
        crop=224,
        left_out=frozenset({"projector", "predictor", "classifier", "queue"}),
    )


LAYOUT = Layout(
    adapter="solo_learn",
    read_in="vturrisi/solo-learn 94e01eb solo/backbones/convnext/convnext.py",
    make=make,
)
