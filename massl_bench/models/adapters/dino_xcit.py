"""DINO's XCiTs: backbone files, in the names of XCiT's authors."""

from __future__ import annotations

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.xcit import XCIT_MARKS, xcit


def network(found: Found) -> Network:
    """Returns DINO's XCiT."""
    return xcit(found, evaluation_origin="as DINO's evaluation", feature_origin="as its authors evaluate")


ADAPTER = Adapter(
    name="dino_xcit",
    summary="DINO's XCiTs (backbone files)",
    read_in="facebookresearch/dino 144f705 hubconf.py, 04c0ad9 eval_knn.py; facebookresearch/xcit 9a7df94 xcit.py",
    rank=Rank.NAMES,
    matches=lambda content: content.names() >= XCIT_MARKS,
    weights=(Weights(name="state dict"),),
    network=network,
    licence="Apache-2.0",
)
