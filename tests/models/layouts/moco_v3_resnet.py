"""MoCo v3 with a ResNet: the same container, `fc` for the head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch

from tests.models.layouts import Layout, Made, Published, on_meta, prefixed
from tests.models.resnet_layouts import network


def _content(base: Any, momentum: Any) -> dict[str, Any]:
    head = {"fc.0.weight": torch.randn(4, 4), "fc.1.running_mean": torch.randn(4)}
    state = {
        **prefixed("base_encoder.", {**base, **head}),
        **prefixed("momentum_encoder.", {**momentum, **head}),
        "predictor.0.weight": torch.randn(4, 4),
    }
    return {"epoch": 3, "arch": "resnet50", "state_dict": prefixed("module.", state), "optimizer": {"state": {}}}


def make(folder: Path) -> Made:
    base, momentum = network(1), network(2)
    torch.save(_content(base.state_dict(), momentum.state_dict()), folder / "r.pth.tar")
    return Made(
        path=folder / "r.pth.tar",
        source=base,
        side=64,
        other_side=96,
        crop=224,
        twins={"momentum_encoder": momentum},
        left_out=frozenset({"projector", "predictor", "the momentum encoder"}),
    )


def _published() -> Any:
    tensors = on_meta(lambda: timm.create_model("resnet50", num_classes=0))
    return _content(tensors, tensors)


LAYOUT = Layout(
    adapter="moco_v3",
    read_in="facebookresearch/moco-v3 c349e6e main_moco.py, moco/builder.py",
    make=make,
    published={"resnet50": Published(content=_published, heads=None, crop=224, arch="resnet50")},
)
