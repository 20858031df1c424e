"""OBoW as its trainer writes it: student and teacher in numbered blocks."""

from __future__ import annotations

from typing import Any

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, some


def _write(backbone: State, twin: State) -> Any:
    state = {
        **prefixed("feature_extractor.", _blocks(backbone)),
        **prefixed("feature_extractor_teacher.", _blocks(twin)),
        **some("bow_extractor.bow_extractor.0._embedding", "bow_predictor.layers_w.0.b0_fc.weight"),
    }
    return {"epoch": 9, "network": state}


def _blocks(state: State) -> State:
    stem = {"conv1": "0.Conv", "bn1": "0.bn"}
    parts = {name: name.split(".", 1) for name in state}
    return {
        f"_feature_blocks.{stem.get(first, first.removeprefix('layer'))}.{rest}": state[name]
        for name, (first, rest) in parts.items()
    }


LAYOUT = layout(
    "obow",
    "valeoai/obow 3758504 obow/builder_obow.py, obow/feature_extractor.py",
    _write,
    left_out=frozenset({"the teacher", "vocabulary of words", "predictor"}),
    twin="feature_extractor_teacher",
)
