"""lightly's examples: a ResNet as a sequence of its children, by number, and the heads and twins of the method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Tensors, Weights
from massl_bench.models.content import Content
from massl_bench.models.evaluations import bilinear_crop
from massl_bench.models.renaming import renamed_shapes, substituted
from massl_bench.models.resnets import resnet

_TWINS = ("backbone_momentum", "student_backbone", "teacher_backbone", "key_backbone")
_NAMES = [
    (r"0\.(.*)", r"conv1.\1"),
    (r"1\.(.*)", r"bn1.\1"),
    *((rf"{stage + 3}\.(.*)", rf"layer{stage}.\1") for stage in range(1, 5)),
]
"""Children 2 and 3 are the activation and the pooling."""
_HEADS = ("projection_head", "prediction_head", "head")


def _rename(tensors: Tensors, _network: Any) -> Mapping[str, Tensor]:
    return substituted(tensors, _NAMES)


def _key(content: Content) -> str | None:
    return next((key for key in ("", "state_dict") if "backbone.4.0.conv1.weight" in content.names(key)), None)


def _weights(content: Content) -> tuple[Weights, ...]:
    key = _key(content) or ""
    twins = [Weights(name=name, key=key, prefix=f"{name}.", what=f"the twin {name}") for name in _TWINS]
    there = [twin for twin in twins if content.any_under(twin.prefix, key)]
    return (Weights(name="backbone", key=key, prefix="backbone."), *there)


def _network(found: Found) -> Network:
    named = renamed_shapes(found, _rename)
    return resnet(named, evaluation=bilinear_crop, evaluation_origin="as lightly's benchmarks", rename=_rename)


ADAPTER = Adapter(
    name="lightly",
    summary="lightly's examples (a ResNet's children by number)",
    read_in="lightly-ai/lightly e8d317fc examples/pytorch, examples/pytorch_lightning, benchmarks/imagenet/resnet50",
    rank=Rank.NAMES,
    matches=lambda content: _key(content) is not None,
    weights=_weights,
    beside={
        **{
            f"{before}{head}{after}.": "predictor" if head == "prediction_head" else "projector"
            for head in _HEADS
            for before, after in (("", ""), ("", "_momentum"), ("student_", ""), ("teacher_", ""), ("key_", ""))
        },
        "prototypes.": "prototypes",
        "criterion.": "loss",
        "online_classifier.": "classifier",
        "memory_bank.": "memory",
    },
    network=_network,
)
