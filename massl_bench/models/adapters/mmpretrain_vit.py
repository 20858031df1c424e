"""mmselfsup's and mmpretrain's ViTs: MAE, MoCo v3 and their kin, in the names of OpenMMLab."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Tensors, Weights
from massl_bench.models.build import vit
from massl_bench.models.content import Content
from massl_bench.models.evaluations import bilinear_crop
from massl_bench.models.renaming import in_timm_names, substituted
from massl_bench.models.shapes import Heads, has_fixed_positions

_KEY = "state_dict"
_MARKS = ("layers.0.ln1.weight", "layers.0.attn.qkv.weight", "pos_embed")
_AVERAGE = "momentum_encoder.module"
_NAMES = [
    (r"patch_embed\.projection\.(.*)", r"patch_embed.proj.\1"),
    (r"layers\.(\d+)\.ln([12])\.(.*)", r"blocks.\1.norm\2.\3"),
    (r"layers\.(\d+)\.ffn\.layers\.0\.0\.(.*)", r"blocks.\1.mlp.fc1.\2"),
    (r"layers\.(\d+)\.ffn\.layers\.1\.(.*)", r"blocks.\1.mlp.fc2.\2"),
    (r"layers\.(\d+)\.attn\.(.*)", r"blocks.\1.attn.\2"),
    (r"ln1\.(.*)", r"norm.\1"),
]
_HEADS: Heads = {(192, 12): 3, (384, 12): 6, (768, 8): 8, (768, 12): 12, (1024, 24): 16, (1280, 32): 16}
_FIXED_HEADS: Heads = {(384, 12): 12, (768, 12): 12, (1024, 24): 16, (1280, 32): 16}
"""MoCo v3's small one, whose position embeddings are fixed, has 12; the one with learnt ones is DeiT's."""


def _matches(content: Content) -> bool:
    names = content.names(_KEY)
    return any(all(f"{prefix}{mark}" in names for mark in _MARKS) for prefix in ("backbone.", f"{_AVERAGE}.0."))


def _rename(tensors: Tensors, _network: Any) -> Mapping[str, Tensor]:
    return substituted(tensors, _NAMES)


def _weights(content: Content) -> tuple[Weights, ...]:
    backbone = Weights(name="backbone", key=_KEY, prefix="backbone.")
    if not content.any_under(f"{_AVERAGE}.0.", _KEY):
        return (backbone,)
    return backbone, Weights(name="momentum_encoder", key=_KEY, prefix=f"{_AVERAGE}.0.", what="the momentum encoder")


def _network(found: Found) -> Network:
    fixed = has_fixed_positions(found.tensors, found.where)
    return vit(
        in_timm_names(found, _rename),
        heads=_FIXED_HEADS if fixed else _HEADS,
        heads_origin="of mmselfsup's ViTs for MAE and MoCo v3: these have fixed position embeddings"
        if fixed
        else "of mmpretrain's own sizes",
        positions="size",
        feature_origin="as mmpretrain's linear evaluation",
        evaluation=bilinear_crop,
        evaluation_origin="as mmpretrain's linear evaluation",
        rename=_rename,
    )


ADAPTER = Adapter(
    name="mmpretrain_vit",
    summary="mmselfsup's and mmpretrain's ViTs (backbone, neck, head, momentum encoder)",
    read_in="open-mmlab/mmpretrain 00030e3 mmpretrain/models/backbones/vision_transformer.py, 08dc8c7 selfsup/mae.py, "
    "326bc0c selfsup/mocov3.py, 0d96216 configs/mae/benchmarks; open-mmlab/mmselfsup 410828f vision_transformer.py, "
    "006143f mae_pretrain_vit.py; open-mmlab/mmcv cnn/bricks/transformer.py (FFN)",
    rank=Rank.NAMES,
    matches=_matches,
    weights=_weights,
    inside={"mask_token": "mask token"},
    beside={
        "neck.": "projector or decoder",
        "head.": "predictor, head or classifier",
        f"{_AVERAGE}.1.": "projector",
        "momentum_encoder.steps": "counter of an average",
        "target_generator.": "targets of the prediction",
        "data_preprocessor.": "mean and deviation of images",
    },
    network=_network,
    licence="Apache-2.0",
)
