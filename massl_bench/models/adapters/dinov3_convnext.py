"""DINOv3's ConvNeXts: the original ConvNeXt's names, and norms of stages, of which the last is the final one again."""

from __future__ import annotations

from functools import partial

from massl_bench.core.settings import own_size
from massl_bench.core.wording import asked
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.build import timm_network
from massl_bench.models.shapes import count_blocks
from massl_bench.models.timm_config import timm_filter

_SIZES = {(96, 9): "tiny", (96, 27): "small", (128, 27): "base", (192, 27): "large"}
_MARKS = frozenset({"downsample_layers.0.0.weight", "stages.0.0.dwconv.weight", "norms.3.weight", "norm.weight"})


def _network(found: Found) -> Network:
    dims = tuple((*found.shape(f"stages.{stage}.0.dwconv.weight"), 0)[0] for stage in range(4))
    depths = tuple(count_blocks(found.tensors, rf"stages\.{stage}", found.where) for stage in range(4))
    arch = f"convnext_{_SIZES.get((dims[0], depths[2]), 'tiny')}"
    satellite = "sat493m" in found.content.file.name
    return timm_network(
        found,
        arch,
        preprocessing=own_size(224),
        preprocessing_origin="as DINOv3's k-NN and linear evaluation",
        rename=partial(timm_filter, arch),
        origin="the file's shapes",
        notes=(f"its name says satellite images, whose mean is another one: {asked('preprocessing')}",)
        if satellite
        else (),
        dims=dims,
        depths=depths,
    )


ADAPTER = Adapter(
    name="dinov3_convnext",
    summary="DINOv3's ConvNeXts (backbone files)",
    read_in="facebookresearch/dinov3 6876159 dinov3/models/convnext.py, dinov3/hub/backbones.py",
    rank=Rank.NAMES,
    matches=lambda content: content.names() >= _MARKS,
    weights=(Weights(name="state dict"),),
    inside={"norms.": "norms of stages", "mask_token": "mask token"},
    network=_network,
    licence="DINOv3 licence",
)
