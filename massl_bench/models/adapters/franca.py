"""Franca: DINOv2's layout with blocks in chunks and SwiGLU at every size; DINOv2's own runs of ViT-g look the same."""

from __future__ import annotations

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.adapters.dinov2 import dinov2_network, has_packed_chunks


def _network(found: Found) -> Network:
    return dinov2_network(found, "as Franca's k-NN evaluation")


ADAPTER = Adapter(
    name="franca",
    summary="Franca (teacher with blocks in chunks)",
    read_in="valeoai/Franca 24f8c60 hubconf.py, franca/models/vision_transformer.py, README",
    rank=Rank.KEYS_AND_NAMES,
    matches=has_packed_chunks,
    weights=(Weights(name="teacher", key="teacher", prefix="backbone.", what="the teacher"),),
    inside={"mask_token": "mask token"},
    beside={"dino_head.": "projector", "ibot_head.": "projector"},
    network=_network,
    licence="research-only RAIL (weights), Apache-2.0 (code)",
)
