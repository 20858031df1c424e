"""SimSiam: one encoder with its projector inside, and a predictor."""

from __future__ import annotations

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.content import Content
from massl_bench.models.evaluations import bilinear_crop
from massl_bench.models.resnets import resnet

_ENCODER = "encoder."


def _matches(content: Content) -> bool:
    encoder, predictor = (content.any_under(prefix, "state_dict") for prefix in ("encoder.layer1.", "predictor."))
    return encoder and predictor and content.any_under("encoder.fc.", "state_dict")


def _network(found: Found) -> Network:
    return resnet(found, evaluation=bilinear_crop, evaluation_origin="as SimSiam's linear evaluation")


ADAPTER = Adapter(
    name="simsiam",
    summary="SimSiam (encoder and predictor)",
    read_in="facebookresearch/simsiam a7bc177 main_simsiam.py, main_lincls.py, simsiam/builder.py",
    rank=Rank.NAMES,
    matches=_matches,
    weights=(Weights(name="encoder", key="state_dict", prefix=_ENCODER, what="the encoder"),),
    inside={"fc.": "projector"},
    beside={"predictor.": "predictor"},
    network=_network,
    licence="CC-BY-NC-4.0",
)
