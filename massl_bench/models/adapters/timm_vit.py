"""A ViT's state dict under timm's names, alone or under a trainer's usual key; DINO's and iBOT's backbone files too."""

from __future__ import annotations

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.build import vit
from massl_bench.models.content import Content
from massl_bench.models.plain import plain_key, plain_sets

_MARKS = ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.norm1.weight")


def _weights(content: Content) -> tuple[Weights, ...]:
    return plain_sets(content, _MARKS)


def _matches(content: Content) -> bool:
    return plain_key(content, _MARKS) is not None


def _network(found: Found) -> Network:
    return vit(found, heads_origin="published for these dimensions under timm's names")


ADAPTER = Adapter(
    name="timm_vit",
    summary="a plain ViT in timm's names",
    read_in="huggingface/pytorch-image-models 1.0.31 vision_transformer.py; facebookresearch/dino 7c446df hubconf.py; "
    "bytedance/ibot da316d8 README",
    rank=Rank.PLAIN,
    matches=_matches,
    weights=_weights,
    inside={"head.": "classifier", "masked_embed": "mask token"},
    beside={"head.": "projector", "n_averaged": "counter of an average"},
    network=_network,
)
