"""Directories of Hugging Face's transformers with a ResNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from massl_bench.core.errors import RequestError
from massl_bench.core.settings import Preprocessing
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Tensors, Weights
from massl_bench.models.content import Content
from massl_bench.models.renaming import renamed_shapes, substituted
from massl_bench.models.resnets import resnet
from massl_bench.models.transformers_config import CONFIG, PROCESSOR, model_type, processor_preprocessing

_PREFIX = "resnet."
_SQUASHED_FROM = 384
"""Pixels from which ConvNeXt's image processor, which ResNets use, crops nothing."""

_PARTS = {
    **{f"layer\\.{place}\\.convolution": f"conv{place + 1}" for place in range(3)},
    **{f"layer\\.{place}\\.normalization": f"bn{place + 1}" for place in range(3)},
    r"shortcut\.convolution": "downsample.0",
    r"shortcut\.normalization": "downsample.1",
}
_NAMES = [
    (r"embedder\.embedder\.convolution\.(.*)", r"conv1.\1"),
    (r"embedder\.embedder\.normalization\.(.*)", r"bn1.\1"),
    *(
        (rf"encoder\.stages\.{stage}\.layers\.(\d+)\.{theirs}\.(.*)", rf"layer{stage + 1}.\1.{ours}.\2")
        for stage in range(4)
        for theirs, ours in _PARTS.items()
    ),
]


def _rename(tensors: Tensors, _network: Any) -> Mapping[str, Tensor]:
    return substituted(tensors, _NAMES)


def _fed(found: Found) -> tuple[Preprocessing, str] | None:
    fed = processor_preprocessing(found)
    config = found.content.json(PROCESSOR) or {}
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type"))
    if fed is None or not kind.startswith("ConvNext"):
        return fed
    side, share = fed[0].resize, config.get("crop_pct", 224 / 256)
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise RequestError(f"{found.where}: {PROCESSOR}: crop_pct: expected a number in (0, 1], found {share!r}")
    squashed = {"resize": side, "resize_mode": "squash", "crop": side}
    cropped = {"resize": int(side / share), "resize_mode": "shortest", "crop": side}
    return fed[0].model_copy(update=squashed if side >= _SQUASHED_FROM else cropped), fed[1]


def _network(found: Found) -> Network:
    config = found.content.json(CONFIG) or {}
    usual = {"downsample_in_first_stage": False, "downsample_in_bottleneck": False, "hidden_act": "relu"}
    for key, value in usual.items():
        if config.get(key, value) != value:
            raise RequestError(f"{found.where}: {CONFIG}: {key}: {config[key]!r}; supported: {value!r}")
    network, fed = resnet(renamed_shapes(found, _rename), rename=_rename), _fed(found)
    return network if fed is None else replace(network, preprocessing=fed[0], preprocessing_origin=fed[1], origins={})


def _weights(content: Content) -> tuple[Weights, ...]:
    return (Weights(name="state dict", prefix=_PREFIX if content.any_under(_PREFIX) else ""),)


ADAPTER = Adapter(
    name="transformers_resnet",
    summary="a directory of transformers with a ResNet",
    read_in="huggingface/transformers 5.24.0 models/resnet, models/convnext (image processor)",
    rank=Rank.DECLARED,
    matches=lambda content: model_type(content) == "resnet",
    weights=_weights,
    inside={"classifier.": "classifier"},
    beside={"classifier.": "classifier"},
    network=_network,
)
