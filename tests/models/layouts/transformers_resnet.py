"""transformers' ResNet for classification, as `save_pretrained` writes it, computed by transformers' own names."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors.torch import save_file

from tests.models.layouts import Layout, Made, prefixed
from tests.models.resnet_layouts import State, network, some


def _their_name(name: str) -> str:
    if not name.startswith("layer"):
        kind, rest = name.split(".", 1)
        return f"embedder.embedder.{'convolution' if kind == 'conv1' else 'normalization'}.{rest}"
    stage, block, part, rest = name.removeprefix("layer").split(".", 3)
    if part == "downsample":
        number, rest = rest.split(".", 1)
        theirs = f"shortcut.{('convolution', 'normalization')[int(number)]}"
    else:
        kind, number = re.fullmatch(r"(conv|bn)(\d)", part).groups()
        theirs = f"layer.{int(number) - 1}.{'convolution' if kind == 'conv' else 'normalization'}"
    return f"encoder.stages.{int(stage) - 1}.layers.{block}.{theirs}.{rest}"


def make(folder: Path) -> Made:
    source = network(3)
    state: State = {_their_name(name): tensor for name, tensor in source.state_dict().items()}
    config = {"model_type": "resnet", "layer_type": "bottleneck", "depths": [1, 1, 1, 1], "hidden_act": "relu"}
    processor = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.875}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, "resample": 3}))
    save_file({**prefixed("resnet.", state), **some("classifier.1.weight")}, folder / "model.safetensors")
    return Made(
        path=folder,
        source=source,
        side=64,
        other_side=96,
        crop=224,
        left_out=frozenset({"classifier"}),
    )


LAYOUT = Layout(
    adapter="transformers_resnet", read_in="huggingface/transformers 5.24.0 models/resnet/modeling_resnet.py", make=make
)
