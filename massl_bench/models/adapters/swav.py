"""SwAV, DeepCluster-v2, SeLa-v2: a ResNet with projector and prototypes among its tensors; a deviation of .228."""

from __future__ import annotations

from functools import partial

from massl_bench.core.settings import IMAGENET_MEAN, own_size
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.content import Content
from massl_bench.models.resnets import resnet

_STD = (0.228, 0.224, 0.225)
"""The authors' of red is .228, not ImageNet's .229, in training and evaluation."""


def _key(content: Content) -> str | None:
    """Returns the key of the state dict: published files are one, those of own runs have it inside."""
    for key in ("", "state_dict"):
        heads = content.any_under("projection_head.", key) or content.any_under("prototypes.", key)
        if heads and content.any_under("layer1.", key):
            return key
    return None


def _weights(content: Content) -> tuple[Weights, ...]:
    key = _key(content) or ""
    return (Weights(name=key or "state dict", key=key),)


def _network(found: Found) -> Network:
    evaluation = partial(own_size, interpolation="bilinear", mean=IMAGENET_MEAN, std=_STD)
    return resnet(found, evaluation=evaluation, evaluation_origin="as SwAV's linear evaluation")


ADAPTER = Adapter(
    name="swav",
    summary="SwAV, DeepCluster-v2, SeLa-v2 (projector and prototypes beside the ResNet)",
    read_in="facebookresearch/swav 06b1b7c main_swav.py, main_deepclusterv2.py, eval_linear.py, src/resnet50.py",
    rank=Rank.NAMES,
    matches=lambda content: _key(content) is not None,
    weights=_weights,
    inside={"projection_head.": "projector", "prototypes.": "prototypes"},
    network=_network,
    licence="CC-BY-NC-4.0",
)
