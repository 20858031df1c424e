"""DINOv2: backbone files (flat) and its trainer's own (`teacher`), with or without registers."""

from __future__ import annotations

from collections.abc import Mapping

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.build import vit
from massl_bench.models.content import Content
from massl_bench.models.renaming import dinov2_to_timm, in_timm_names, swiglu_arguments

HEADS: Mapping[tuple[int, ...], int] = {(384, 12): 6, (768, 12): 12, (1024, 24): 16, (1536, 40): 24}
_MARKS = frozenset({"mask_token", "cls_token", "pos_embed", "patch_embed.proj.weight"})


def _key_and_prefix(content: Content) -> tuple[str, str] | None:
    for key, prefix in (("", ""), ("teacher", "backbone.")):
        names = content.names(key)
        scales = any(name.startswith(f"{prefix}blocks.0.") and name.endswith(".ls1.gamma") for name in names)
        if scales and all(f"{prefix}{mark}" in names for mark in _MARKS):
            return key, prefix
    return None


def has_packed_chunks(content: Content) -> bool:
    """Returns whether blocks lie in chunks and have fused SwiGLU: Franca's, and those of DINOv2's own largest runs."""
    return "backbone.blocks.0.0.mlp.w12.weight" in content.names("teacher")


def _weights(content: Content) -> tuple[Weights, ...]:
    key, prefix = _key_and_prefix(content) or ("", "")
    return (Weights(name=key or "state dict", key=key, prefix=prefix, what="the teacher" if key else "the backbone"),)


def dinov2_network(found: Found, evaluation_origin: str) -> Network:
    """Returns the network of a file in DINOv2's names: as published, its class token at 224 is evaluated."""
    shapes = in_timm_names(found, dinov2_to_timm)
    return vit(
        shapes,
        heads=HEADS,
        heads_origin="of DINOv2's own sizes",
        positions="antialias" if "reg_token" in shapes.tensors else "offset",
        feature_origin="as its authors' k-NN",
        evaluation_origin=evaluation_origin,
        evaluated_at=224,
        rename=dinov2_to_timm,
        **swiglu_arguments(shapes),
    )


def _network(found: Found) -> Network:
    return dinov2_network(found, "as DINOv2's k-NN and linear evaluation")


ADAPTER = Adapter(
    name="dinov2",
    summary="DINOv2 (backbone files; the teacher of its trainer)",
    read_in="facebookresearch/dinov2 b8931f7 hub/backbones.py, models/vision_transformer.py, eval/knn.py",
    rank=Rank.KEYS_AND_NAMES,
    matches=lambda content: _key_and_prefix(content) is not None and not has_packed_chunks(content),
    weights=_weights,
    inside={"mask_token": "mask token"},
    beside={"dino_head.": "projector", "ibot_head.": "projector"},
    network=_network,
    licence="Apache-2.0",
)
