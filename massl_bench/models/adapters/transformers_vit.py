"""Directories of Hugging Face's transformers with a ViT: ViT, MAE, MSN, I-JEPA, DINOv2 with and without registers.

Names as versions 4 and 5 write files, and as version 5 has them in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from massl_bench.core.model_settings import FeatureName
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Tensors, Weights
from massl_bench.models.build import vit
from massl_bench.models.content import Content
from massl_bench.models.networks.vit import PositionRule
from massl_bench.models.renaming import (
    folded_class_position,
    fused_qkv,
    in_timm_names,
    put,
    substituted,
    swiglu_arguments,
)
from massl_bench.models.transformers_config import (
    activation_of,
    heads_of_config,
    model_type,
    number_of,
    processor_preprocessing,
)


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """A model of transformers: prefix of its task models, default eps, and how its weights' authors evaluate it."""

    prefix: str
    eps: float
    feature: FeatureName = "token"
    why: str = "as its authors evaluate"
    positions: PositionRule = "size"
    notes: tuple[str, ...] = ()


_DINOV2_NOTE = "transformers resamples its position embeddings otherwise than the authors' code, which adds 0.1"
_KINDS: Mapping[str, _Kind] = {
    "vit": _Kind(prefix="vit.", eps=1e-12, why="class token after the norm, before transformers' pooler"),
    "vit_mae": _Kind(prefix="vit.", eps=1e-12),
    "vit_msn": _Kind(
        prefix="vit.",
        eps=1e-6,
        feature="token-before-norm",
        why="as MSN's authors evaluate: they set the final norm aside, transformers does not",
    ),
    "ijepa": _Kind(prefix="ijepa.", eps=1e-12, feature="avg"),
    "dinov2": _Kind(prefix="dinov2.", eps=1e-6, notes=(_DINOV2_NOTE,)),
    "dinov2_with_registers": _Kind(prefix="dinov2_with_registers.", eps=1e-6, positions="antialias"),
}
_MARK = "embeddings.patch_embeddings.projection.weight"
_LAYER = r"(?:encoder\.)?layers?\.(\d+)\."
_NAMES = [
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.patch_embeddings\.projection\.(.*)", r"patch_embed.proj.\1"),
    (rf"{_LAYER}(?:layernorm_before|norm1)\.(.*)", r"blocks.\1.norm1.\2"),
    (rf"{_LAYER}(?:layernorm_after|norm2)\.(.*)", r"blocks.\1.norm2.\2"),
    (rf"{_LAYER}attention\.(?:attention\.)?(?:query|q_proj)\.(.*)", r"blocks.\1.attn.query.\2"),
    (rf"{_LAYER}attention\.(?:attention\.)?(?:key|k_proj)\.(.*)", r"blocks.\1.attn.key.\2"),
    (rf"{_LAYER}attention\.(?:attention\.)?(?:value|v_proj)\.(.*)", r"blocks.\1.attn.value.\2"),
    (rf"{_LAYER}attention\.(?:output\.dense|o_proj)\.(.*)", r"blocks.\1.attn.proj.\2"),
    (rf"{_LAYER}layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (rf"{_LAYER}(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.(.*)", r"blocks.\1.mlp.fc1.\2"),
    (rf"{_LAYER}(?:output\.dense|mlp\.fc2|mlp\.weights_out|mlp\.down_proj)\.(.*)", r"blocks.\1.mlp.fc2.\2"),
    (rf"{_LAYER}mlp\.(gate|up)_proj\.(.*)", r"blocks.\1.mlp.\2.\3"),
    (r"layernorm\.(.*)", r"norm.\1"),
]


def _rename(tensors: Tensors, _network: Any) -> Mapping[str, Tensor]:
    renamed = fused_qkv(substituted(tensors, _NAMES))
    for gate in [name for name in renamed if ".mlp.gate." in name]:
        both = renamed.pop(gate), renamed.pop(gate.replace(".mlp.gate.", ".mlp.up."))
        put(renamed, gate.replace(".mlp.gate.", ".mlp.fc1."), torch.cat(both))
    return folded_class_position(renamed) if "reg_token" in renamed else renamed


def _weights(content: Content) -> tuple[Weights, ...]:
    # Of any file, where the nearest layout is looked for: it may say a type that nobody knows.
    prefix = _KINDS.get(model_type(content) or "vit", _KINDS["vit"]).prefix
    prefix = prefix if f"{prefix}{_MARK}" in content.names() else ""
    return (Weights(name="state dict", prefix=prefix),)


def _network(found: Found) -> Network:
    kind = _KINDS[model_type(found.content) or "vit"]
    shapes = in_timm_names(found, _rename)
    fed = processor_preprocessing(found)
    network = vit(
        shapes,
        heads=lambda shape: heads_of_config(found, shape.width),
        heads_origin="config.json says so",
        positions=kind.positions,
        feature=kind.feature,
        feature_origin=kind.why,
        eps=number_of(found, "layer_norm_eps", kind.eps),
        rename=_rename,
        notes=kind.notes,
        **{"act": activation_of(found), **swiglu_arguments(shapes)},
    )
    if fed is None:
        return network
    return replace(network, preprocessing=fed[0], preprocessing_origin=fed[1], origins={**network.origins, "size": ""})


ADAPTER = Adapter(
    name="transformers_vit",
    summary="a directory of transformers with a ViT (ViT, MAE, MSN, I-JEPA, DINOv2)",
    read_in="huggingface/transformers 5.24.0 models/{vit,vit_mae,vit_msn,ijepa,dinov2,dinov2_with_registers}",
    rank=Rank.DECLARED,
    matches=lambda content: model_type(content) in _KINDS,
    weights=_weights,
    inside={
        "pooler.": "pooler",
        "embeddings.mask_token": "mask token",
        "classifier.": "classifier",
        "decoder.": "decoder",
    },
    beside={"classifier.": "classifier", "decoder.": "decoder"},
    network=_network,
)
