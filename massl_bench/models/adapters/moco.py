"""MoCo v1 and v2, PCL v1 and v2: a query encoder, its momentum twin (keys) and a queue in one state dict."""

from __future__ import annotations

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.content import Content
from massl_bench.models.evaluations import bilinear_crop
from massl_bench.models.resnets import resnet

_QUERY, _KEYS = "encoder_q.", "encoder_k."


def _matches(content: Content) -> bool:
    return any(content.any_under(f"{prefix}layer1.", "state_dict") for prefix in (_QUERY, _KEYS))


def _network(found: Found) -> Network:
    return resnet(found, evaluation=bilinear_crop, evaluation_origin="as MoCo's and PCL's linear evaluation")


ADAPTER = Adapter(
    name="moco",
    summary="MoCo v1 and v2, PCL (query and key encoder)",
    read_in="facebookresearch/moco 132aea9 main_moco.py, main_lincls.py, moco/builder.py; salesforce/PCL 964da1f",
    rank=Rank.NAMES,
    matches=_matches,
    weights=(
        Weights(name="encoder_q", key="state_dict", prefix=_QUERY, what="the query encoder"),
        Weights(name="encoder_k", key="state_dict", prefix=_KEYS, what="the key encoder"),
    ),
    inside={"fc.": "projector"},
    beside={"queue": "queue", "queue_ptr": "queue"},
    network=_network,
)
