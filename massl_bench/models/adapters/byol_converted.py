"""BYOL's own weights, converted from JAX: torchvision's names, and JAX's padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import nn

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.content import Content
from massl_bench.models.identity import BATCH_COUNTER
from massl_bench.models.networks.resnet import with_same_padding
from massl_bench.models.resnets import resnet


def _matches(content: Content) -> bool:
    """Returns whether a flat ResNet has all statistics behind all weights: the converter appends them, torch never."""
    if not content.is_flat or not content.names() >= {"layer1.0.conv1.weight", "fc.weight"}:
        return False
    names = list(content.state())
    statistics = [place for place, name in enumerate(names) if ".running_" in name]
    return (
        bool(statistics)
        and not any(name.endswith(BATCH_COUNTER) for name in names)
        and statistics[0] == len(names) - len(statistics)
    )


def _padded(build: Callable[[], nn.Module]) -> nn.Module:
    return with_same_padding(build())  # type: ignore[arg-type]  # a ResNet of timm


def _network(found: Found) -> Network:
    network = resnet(found, evaluation_origin="as BYOL's evaluation")
    return replace(
        network,
        architecture=f"{network.architecture} with JAX's padding",
        build=partial(_padded, network.build),
        origins={**network.origins, "architecture": "the converter's network"},
    )


ADAPTER = Adapter(
    name="byol_converted",
    summary="BYOL's own weights converted by byol-convert",
    read_in="ajtejankar/byol-convert 7497e7f convert.py, 05d160a resnet.py, d3f4efc validate.py; "
    "deepmind/deepmind-research f5de0ed byol/utils/dataset.py",
    rank=Rank.NAMES,
    matches=_matches,
    weights=(Weights(name="state dict", what="the online network"),),
    inside={"fc.": "classifier"},
    network=_network,
    licence="CC-BY-NC-4.0",
)
