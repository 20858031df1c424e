"""InfoMin, and what else PyContrast trains of one encoder: its momentum twin lies under a key of its own."""

from __future__ import annotations

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.content import Content
from massl_bench.models.evaluations import bilinear_crop
from massl_bench.models.resnets import resnet

_SETS = ("model", "model_ema")


def _matches(content: Content) -> bool:
    return any(content.any_under("encoder.layer1.", key) and content.any_under("head.", key) for key in _SETS)


def _network(found: Found) -> Network:
    return resnet(found, evaluation=bilinear_crop, evaluation_origin="as InfoMin's linear evaluation")


ADAPTER = Adapter(
    name="infomin",
    summary="InfoMin, PyContrast (query encoder and its momentum twin)",
    read_in="HobbitLong/PyContrast 84f94ea pycontrast/networks/build_backbone.py, learning/contrast_trainer.py, "
    "learning/linear_trainer.py",
    rank=Rank.NAMES,
    matches=_matches,
    weights=(
        Weights(name="model", key="model", prefix="encoder.", what="the query encoder"),
        Weights(name="model_ema", key="model_ema", prefix="encoder.", what="the momentum encoder"),
    ),
    beside={"head.": "projector", "head_jig.": "projector"},
    others={"contrast": "memory"},
    network=_network,
    licence="BSD-2-Clause",
)
