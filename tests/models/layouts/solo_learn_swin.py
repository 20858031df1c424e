"""solo-learn with a Swin, under the names of timm before 0.9: masks of shifted windows stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from tests.models.layouts import Layout, Made, prefixed
from tests.models.reference_swin import make_swin


def make(folder: Path) -> Made:
    online = replace(make_swin(side=32, window=2, depths=(1, 2, 1), width=8, heads=(1, 2, 2)), eps=1e-5)
    values = {name: tensor * 0.9 if tensor.is_floating_point() else tensor for name, tensor in online.t.items()}
    momentum = replace(online, t=values)
    heads = ("projector.0.weight", "momentum_projector.0.weight", "classifier.weight", "momentum_classifier.weight")
    state = {
        **prefixed("backbone.", {**online.t, "layers.0.blocks.0.attn_mask": torch.zeros(4, 4, 4)}),
        **prefixed("momentum_backbone.", momentum.t),
        **{name: torch.randn(4, 4) for name in heads},
    }
    file = folder / "solo.ckpt"
    torch.save({"pytorch-lightning_version": "1.6.4", "state_dict": state, "optimizer_states": []}, file)
    return Made(
        path=file,
        source=online.mean,
        side=32,
        other_side=64,
        crop=32,
        heads=1,
        patch=4,
        twins={"momentum_backbone": momentum.mean},
        left_out=frozenset({"projector", "classifier", "the momentum network", "table of window positions"}),
    )


LAYOUT = Layout(
    adapter="solo_learn",
    read_in="vturrisi/solo-learn 073e6db solo/backbones/swin/swin.py; huggingface/pytorch-image-models 0.6 "
    "swin_transformer.py",
    make=make,
)
