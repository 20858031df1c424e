"""VICReg as its trainer writes it: backbone and projector."""

from __future__ import annotations

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.content import Content
from massl_bench.models.evaluations import bilinear_crop
from massl_bench.models.resnets import resnet


def _matches(content: Content) -> bool:
    parts = (content.any_under(prefix, "model") for prefix in ("backbone.layer1.", "projector."))
    # A norm beside them is that of Barlow Twins' loss.
    return all(parts) and not content.any_under("bn.", "model")


def _network(found: Found) -> Network:
    return resnet(found, evaluation=bilinear_crop, evaluation_origin="as VICReg's linear evaluation")


ADAPTER = Adapter(
    name="vicreg",
    summary="VICReg's trainer (backbone and projector)",
    read_in="facebookresearch/vicreg 4e12602 main_vicreg.py, evaluate.py, resnet.py",
    rank=Rank.NAMES,
    matches=_matches,
    weights=(Weights(name="model", key="model", prefix="backbone."),),
    beside={"projector.": "projector"},
    network=_network,
    licence="MIT",
)
