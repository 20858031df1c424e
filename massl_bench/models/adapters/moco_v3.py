"""MoCo v3: an encoder, its momentum twin and a predictor in one state dict; ViT or ResNet, each with a head inside."""

from __future__ import annotations

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.build import vit
from massl_bench.models.content import Content
from massl_bench.models.evaluations import bilinear_crop
from massl_bench.models.renaming import in_timm_names
from massl_bench.models.resnets import resnet

_BASE, _MOMENTUM = "base_encoder.", "momentum_encoder."
_WHY = "as MoCo v3's linear evaluation"


def _matches(content: Content) -> bool:
    # mmselfsup's are pairs of a backbone and a neck, by number.
    marks = ("blocks.0.", "layer1.0.")
    return any(content.any_under(f"{prefix}{mark}", "state_dict") for prefix in (_BASE, _MOMENTUM) for mark in marks)


def _network(found: Found) -> Network:
    if "layer1.0.conv1.weight" in found.tensors:
        return resnet(found, evaluation=bilinear_crop, evaluation_origin=_WHY)
    return vit(
        in_timm_names(found),
        heads={(384, 12): 12, (768, 12): 12},
        heads_origin="of MoCo v3's own sizes: its ViT-S has 12, not 6",
        positions="fixed",
        feature_origin="as its authors evaluate",
        evaluation=bilinear_crop,
        evaluation_origin=_WHY,
    )


ADAPTER = Adapter(
    name="moco_v3",
    summary="MoCo v3 (base and momentum encoder)",
    read_in="facebookresearch/moco-v3 c349e6e main_moco.py, main_lincls.py, moco/builder.py, vits.py",
    rank=Rank.NAMES,
    matches=_matches,
    weights=(
        Weights(name="base_encoder", key="state_dict", prefix=_BASE, what="the base encoder"),
        Weights(name="momentum_encoder", key="state_dict", prefix=_MOMENTUM, what="the momentum encoder"),
    ),
    inside={"head.": "projector", "fc.": "projector"},
    beside={"predictor.": "predictor"},
    network=_network,
    licence="CC-BY-NC-4.0",
)
