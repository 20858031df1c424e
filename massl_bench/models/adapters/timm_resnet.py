"""A ResNet's state dict under timm's names, which are torchvision's, alone or under a trainer's usual key."""

from __future__ import annotations

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.content import Content
from massl_bench.models.plain import plain_key, plain_sets
from massl_bench.models.resnets import resnet

_MARKS = ("conv1.weight", "layer4.0.conv1.weight", "layer1.0.bn1.weight")


def _weights(content: Content) -> tuple[Weights, ...]:
    return plain_sets(content, _MARKS)


def _matches(content: Content) -> bool:
    return plain_key(content, _MARKS) is not None


def _network(found: Found) -> Network:
    return resnet(found)


ADAPTER = Adapter(
    name="timm_resnet",
    summary="a plain ResNet in timm's and torchvision's names",
    read_in="pytorch/vision resnet.py; huggingface/pytorch-image-models 1.0.31 resnet.py",
    rank=Rank.PLAIN,
    matches=_matches,
    weights=_weights,
    inside={"fc.": "classifier"},
    beside={"head.": "projector", "n_averaged": "counter of an average"},
    network=_network,
)
