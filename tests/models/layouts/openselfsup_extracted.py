"""A backbone that OpenSelfSup's tool extracted, as Triplet is published."""

from __future__ import annotations

from typing import Any

from tests.models.resnet_layouts import State, layout


def _write(backbone: State, twin: State) -> Any:
    return {"state_dict": {**backbone}, "author": "OpenSelfSup"}


LAYOUT = layout(
    "openselfsup",
    "open-mmlab/mmselfsup a1c3225 tools/extract_backbone_weights.py; wanggrun/triplet c1bbaa9",
    _write,
)
