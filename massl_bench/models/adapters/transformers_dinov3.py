"""Directories of Hugging Face's transformers with a ViT of DINOv3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from massl_bench.core.errors import RequestError
from massl_bench.core.settings import own_size
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Tensors, Weights
from massl_bench.models.build import UNKNOWN_EVALUATION
from massl_bench.models.content import Content
from massl_bench.models.renaming import fused_qkv, in_timm_names, put, substituted
from massl_bench.models.rotary import rotary_vit
from massl_bench.models.transformers_config import (
    CONFIG,
    heads_of_config,
    model_type,
    number_of,
    processor_preprocessing,
)

_MARK = "embeddings.patch_embeddings.weight"
_PREFIXES = ("", "model.", "dinov3_vit.")
_LAYER = r"(?:model\.)?layer\.(\d+)\."
_NAMES = [
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.patch_embeddings\.(.*)", r"patch_embed.proj.\1"),
    (rf"{_LAYER}norm([12])\.(.*)", r"blocks.\1.norm\2.\3"),
    (rf"{_LAYER}attention\.([qkv])_proj\.(.*)", r"blocks.\1.attn.\2.\3"),
    (rf"{_LAYER}attention\.o_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
    (rf"{_LAYER}layer_scale([12])\.lambda1", r"blocks.\1.gamma_\2"),
]
_PLAIN = [(rf"{_LAYER}mlp\.up_proj\.(.*)", r"blocks.\1.mlp.fc1.\2")]
_GATED = [
    (rf"{_LAYER}mlp\.gate_proj\.(.*)", r"blocks.\1.mlp.fc1_g.\2"),
    (rf"{_LAYER}mlp\.up_proj\.(.*)", r"blocks.\1.mlp.fc1_x.\2"),
]
_DOWN = (rf"{_LAYER}mlp\.down_proj\.(.*)", r"blocks.\1.mlp.fc2.\2")


def _rename(tensors: Tensors, network: Any) -> Mapping[str, Tensor]:
    gated = any(".mlp.gate_proj." in name for name in tensors)
    renamed = substituted(tensors, [*_NAMES, *(_GATED if gated else _PLAIN), _DOWN])
    split: Tensors = {}
    for name, tensor in renamed.items():
        if name.endswith(".attn.k.bias"):
            if network is not None and bool(tensor.any()):
                raise ValueError(f"{name}: keys have a bias, for which this network has no place")
            continue
        start, _, end = name.rpartition(".attn.")
        put(split, f"{start}.attn.{end[0]}_bias" if end in ("q.bias", "v.bias") else name, tensor)
    return fused_qkv(split, ("q", "k", "v"))


def _weights(content: Content) -> tuple[Weights, ...]:
    prefix = next((prefix for prefix in _PREFIXES if f"{prefix}{_MARK}" in content.names()), "")
    return (Weights(name="state dict", prefix=prefix),)


def _theta(found: Found) -> float:
    """Returns the base of the rotary periods; version 5 has it in a part of its own."""
    inner = (found.content.json(CONFIG) or {}).get("rope_parameters")
    told = inner.get("rope_theta") if isinstance(inner, Mapping) else None
    return number_of(found, "rope_theta", told if isinstance(told, int | float) else 100.0)


def _network(found: Found) -> Network:
    act = (found.content.json(CONFIG) or {}).get("hidden_act", "gelu")
    expected = "silu" if any(".mlp.gate_proj." in name for name in found.tensors) else "gelu"
    if act != expected:
        raise RequestError(
            f"{found.where}: {CONFIG}: hidden_act: {act!r}; expected {expected}, as DINOv3's MLPs have it"
        )
    fed = processor_preprocessing(found) or (own_size(224), UNKNOWN_EVALUATION)
    return rotary_vit(
        in_timm_names(found, _rename),
        heads=lambda shape: heads_of_config(found, shape.width),
        heads_origin="config.json says so",
        rename=_rename,
        feature_origin="as its authors' k-NN",
        preprocessing=fed[0],
        preprocessing_origin=fed[1],
        eps=number_of(found, "layer_norm_eps", 1e-5),
        temperature=_theta(found),
        notes=("its authors' own k-NN feeds it short side 256, centre crop 224, bicubic",),
    )


ADAPTER = Adapter(
    name="transformers_dinov3",
    summary="a directory of transformers with a ViT of DINOv3",
    read_in="huggingface/transformers 5.24.0 models/dinov3_vit (modeling, convert_dinov3_vit_to_hf)",
    rank=Rank.DECLARED,
    matches=lambda content: model_type(content) == "dinov3_vit",
    weights=_weights,
    inside={"embeddings.mask_token": "mask token", "classifier.": "classifier"},
    beside={"classifier.": "classifier"},
    network=_network,
    licence="DINOv3 licence",
)
