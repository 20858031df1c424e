"""Barlow Twins as its trainer writes it: backbone, projector, and the batch norm of its loss."""

from __future__ import annotations

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.content import Content
from massl_bench.models.evaluations import bilinear_crop
from massl_bench.models.resnets import resnet

_LOSS_NORM = "bn."


def _matches(content: Content) -> bool:
    return content.any_under("backbone.layer1.", "model") and content.any_under(_LOSS_NORM, "model")


def _network(found: Found) -> Network:
    return resnet(found, evaluation=bilinear_crop, evaluation_origin="as Barlow Twins' linear evaluation")


ADAPTER = Adapter(
    name="barlow_twins",
    summary="Barlow Twins' trainer (backbone, projector and the loss's norm)",
    read_in="facebookresearch/barlowtwins 8e8d284 main.py, evaluate.py",
    rank=Rank.NAMES,
    matches=_matches,
    weights=(Weights(name="model", key="model", prefix="backbone."),),
    beside={"projector.": "projector", _LOSS_NORM: "batch norm of the loss"},
    network=_network,
    licence="MIT",
)
