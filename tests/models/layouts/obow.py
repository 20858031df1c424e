"""OBoW's published student: torchvision's names, and a layer of words that is no classifier."""

from __future__ import annotations

from typing import Any

import torch

from tests.models.resnet_layouts import State, layout


def _write(backbone: State, twin: State) -> Any:
    return {"network": {**backbone, "fc.weight": torch.randn(8192, 2)}}


LAYOUT = layout("obow", "valeoai/obow 3758504 README.md", _write, left_out=frozenset({"word layer"}))
