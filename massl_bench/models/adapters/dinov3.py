"""DINOv3's ViTs: flat files with storage tokens, rotary periods, and a mask over the biases of keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from massl_bench.core.settings import own_size
from massl_bench.core.wording import asked
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Tensors, Weights
from massl_bench.models.content import Content
from massl_bench.models.renaming import in_timm_names, substituted
from massl_bench.models.rotary import rotary_vit, without_key_bias

_LOCAL_NORM = "local_cls_norm.weight"
_SATELLITE: dict[str, Any] = {"mean": (0.430, 0.411, 0.296), "std": (0.213, 0.156, 0.143)}
_NAMES = [
    (r"(.*)\.ls([12])\.gamma", r"\1.gamma_\2"),
    ("storage_tokens", "reg_token"),
    (r"rope_embed\.periods", "rope.periods"),
    (r"(.*\.mlp)\.w1\.(.*)", r"\1.fc1_g.\2"),
    (r"(.*\.mlp)\.w2\.(.*)", r"\1.fc1_x.\2"),
    (r"(.*\.mlp)\.w3\.(.*)", r"\1.fc2.\2"),
]


def _matches(content: Content) -> bool:
    return {"storage_tokens", "blocks.0.attn.qkv.weight", "rope_embed.periods"} <= content.names()


def _rename(tensors: Tensors, network: Any) -> Mapping[str, Tensor]:
    return substituted(without_key_bias(tensors, network), _NAMES)


def _network(found: Found) -> Network:
    names, file = found.content.names(), found.content.file.name
    width = found.shape("patch_embed.proj.weight")[:1]
    # Of the ViT-L, only the one for satellite images has a norm of its own for local crops; the 7B ones both have.
    satellite = "sat493m" in file or (width == (1024,) and _LOCAL_NORM in names)
    unclear = width == (4096,) and "sat493m" not in file and "lvd1689m" not in file
    mean = " with the mean of satellite images" if satellite else ""
    notes: tuple[str, ...] = (
        "its README, transformers and timm feed it otherwise: squashed to 256 or 224, bilinear, or not cropped",
    )
    if unclear:
        notes += (
            "the 7B for web and for satellite images look alike: taken for web images; the other one's are "
            f"{asked('preprocessing', 'mean=0.430,0.411,0.296')} {asked('preprocessing', 'std=0.213,0.156,0.143')}",
        )
    periods = found.shape("rope_embed.periods") or (1,)
    return rotary_vit(
        in_timm_names(found, _rename),
        heads=lambda shape: shape.width // (4 * periods[0]) if shape.width % (4 * periods[0]) == 0 else None,
        heads_origin="a quarter of each one's dimensions is the number of rotary periods in the file",
        rename=_rename,
        feature_origin="as its authors' k-NN; timm pools the patch tokens instead",
        preprocessing=own_size(224, **(_SATELLITE if satellite else {})),
        preprocessing_origin=f"as DINOv3's k-NN and linear evaluation{mean}",
        notes=notes,
    )


ADAPTER = Adapter(
    name="dinov3",
    summary="DINOv3's ViTs (backbone files)",
    read_in="facebookresearch/dinov3 6876159 dinov3/hub/backbones.py, models/vision_transformer.py, "
    "layers/attention.py, layers/rope_position_encoding.py, eval/knn.py",
    rank=Rank.NAMES,
    matches=_matches,
    weights=(Weights(name="state dict"),),
    inside={"mask_token": "mask token", "local_cls_norm.": "norm of local crops in training"},
    network=_network,
    licence="DINOv3 licence",
)
