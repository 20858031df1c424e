"""CLIP's ResNets: known by their attention pooling, and refused: timm has them under names of its own."""

from __future__ import annotations

from massl_bench.core.errors import RequestError
from massl_bench.core.wording import asked
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.content import Content

_MARK = "visual.attnpool.k_proj.weight"


def _refused(content: Content) -> tuple[Weights, ...]:
    raise RequestError(
        f"{content.file}: a ResNet of CLIP, whose attention pooling is not read from this layout: "
        f"{asked('model', 'timm:resnet50_clip.openai')} (resnet101_clip, resnet50x4_clip, …) takes the "
        "same weights from timm"
    )


def _network(found: Found) -> Network:
    raise RequestError(f"{found.where}: a ResNet of CLIP")


ADAPTER = Adapter(
    name="clip_resnet",
    summary="CLIP's ResNets; refused",
    read_in="openai/CLIP d05afc4 clip/model.py (ModifiedResNet)",
    rank=Rank.DECLARED,
    matches=lambda content: any(_MARK in content.names(key) for key in ("", "state_dict")),
    weights=_refused,
    network=_network,
)
