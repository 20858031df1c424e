"""MaSSL, DINO, iBOT and CARP as their trainers write them: student and teacher, each a backbone and a head."""

from __future__ import annotations

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.adapters.dino_xcit import ADAPTER as DINO_XCIT
from massl_bench.models.adapters.ibot_swin import ADAPTER as IBOT_SWIN
from massl_bench.models.build import vit
from massl_bench.models.content import Content
from massl_bench.models.resnets import resnet
from massl_bench.models.shapes import heads_of_64
from massl_bench.models.swin import SWIN_MARKS, SWIN_TABLES
from massl_bench.models.xcit import XCIT_MARKS

_WHY = "as DINO's evaluation"


def _matches(content: Content) -> bool:
    marks = ("memory_bank", "dino_loss", "ibot_loss")
    return content.has("teacher") or (content.has("student") and any(map(content.has, marks)))


def _network(found: Found) -> Network:
    if found.tensors.keys() >= SWIN_MARKS:
        return IBOT_SWIN.network(found)
    if found.tensors.keys() >= XCIT_MARKS:
        return DINO_XCIT.network(found)
    if "patch_embed.proj.weight" not in found.tensors:
        return resnet(found, evaluation_origin=_WHY)
    return vit(
        found,
        heads=heads_of_64,  # every ViT: `vit_tiny`, `vit_small`, `vit_base`, `vit_large`
        heads_origin="64 dimensions each, as its trainer makes every ViT",
        feature_origin="as its authors evaluate",
        evaluation_origin=_WHY,
    )


ADAPTER = Adapter(
    name="massl",
    summary="MaSSL, DINO, iBOT and CARP trainers (student and teacher)",
    read_in="facebookresearch/dino 7c446df main_dino.py, eval_knn.py; bytedance/ibot da316d8 main_ibot.py; "
    "MaSSL 0fa1456; CARP c9b068b",
    rank=Rank.KEYS,
    matches=_matches,
    weights=(
        Weights(name="teacher", key="teacher", prefix="backbone.", what="the teacher"),
        Weights(name="student", key="student", prefix="backbone.", what="the student"),
    ),
    inside={**SWIN_TABLES, "masked_embed": "mask token", "fc.": "classifier"},
    beside={"head.": "projector"},
    others={
        "memory_bank": "memory",
        "dino_loss": "loss",
        "ibot_loss": "loss",
    },
    network=_network,
)
