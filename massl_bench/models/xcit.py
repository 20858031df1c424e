"""XCiTs in their authors' names, from a file's shapes: what adapters call."""

from __future__ import annotations

from functools import partial

from massl_bench.core.errors import RequestError
from massl_bench.core.settings import own_size
from massl_bench.core.wording import asked
from massl_bench.models.adapter import Found, Network
from massl_bench.models.build import timm_network
from massl_bench.models.shapes import count_blocks
from massl_bench.models.timm_config import timm_filter

XCIT_MARKS = frozenset({"cls_attn_blocks.0.attn.qkv.weight", "pos_embeder.token_projection.weight"})
"""Tensors of an XCiT in its authors' names: timm calls the positions otherwise, and splits the class attention."""

_SIZES = {128: "nano", 192: "tiny", 384: "small", 512: "medium", 768: "large"}
_NANO = 128
"""Width of the one size whose class attention norms the class token alone: its tensors do not tell."""


def xcit(found: Found, *, evaluation_origin: str, feature_origin: str) -> Network:
    """Returns the XCiT that the tensors are; its feature is the class token after the norm.

    Args:
        found: the file in the authors' names.
        evaluation_origin: where the preprocessing was read.
        feature_origin: who evaluates this feature.

    Raises:
        RequestError: The shapes are no XCiT's, or not those of the architecture that the user says.
    """
    temperature, hidden = found.shape("blocks.0.attn.temperature"), found.shape("blocks.0.mlp.fc1.weight")
    token = found.shape("cls_token")
    if len(token) != 3 or not temperature or not hidden:
        raise RequestError(
            f"{found.where}: not an XCiT in its authors' names: cls_token or a block's tensor is missing"
        )
    width, depth = token[-1], count_blocks(found.tensors, "blocks", found.where)
    # The patches are embedded by a convolution for each halving of the resolution.
    patch = 16 if "patch_embed.proj.6.0.weight" in found.tensors else 8
    arch = f"xcit_{_SIZES.get(width, 'small')}_{depth if depth in (12, 24) else 12}_p{patch}_224"
    told = found.settings.arch
    if told is not None and told != arch:
        raise RequestError(f"{found.where}: {asked('arch', told)}: the shapes of its tensors say {arch}")
    return timm_network(
        found,
        arch,
        feature_origin=feature_origin,
        preprocessing=own_size(224),
        preprocessing_origin=evaluation_origin,
        rename=partial(timm_filter, arch),
        origin="the file's shapes",
        embed_dim=width,
        depth=depth,
        num_heads=temperature[0],
        mlp_ratio=hidden[0] / width,
        cls_attn_layers=count_blocks(found.tensors, "cls_attn_blocks", found.where),
        tokens_norm=width != _NANO,
        eta=1.0,
    )
