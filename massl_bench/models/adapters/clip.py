"""CLIP's image towers: OpenAI's TorchScript files, read for their tensors, and open_clip's state dicts; their ViTs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from timm.layers.activations import QuickGELU
from torch import Tensor, nn

from massl_bench.core.errors import RequestError
from massl_bench.core.wording import asked
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Tensors, Weights
from massl_bench.models.build import vit
from massl_bench.models.content import Content
from massl_bench.models.evaluations import OPEN_CLIP_CONFIG, clip_crop, open_clip_preprocessing
from massl_bench.models.networks.projected import projected
from massl_bench.models.renaming import in_timm_names, substituted
from massl_bench.models.shapes import Heads, VitShape, heads_of_64, named_on_meta, vit_shape

_MARKS = ("class_embedding", "positional_embedding", "transformer.resblocks.0.attn.in_proj_weight")
_PLACES = (("", "visual."), ("state_dict", "visual."), ("", ""))
_OPENAI = "input_resolution"
"""A number that OpenAI's files hold as a tensor, and nobody else's."""

TEXT_TOWER: Mapping[str, str] = {
    **dict.fromkeys(("transformer.", "token_embedding.", "ln_final.", "text."), "text tower"),
    **dict.fromkeys(("positional_embedding", "text_projection", "attn_mask"), "text tower"),
    **dict.fromkeys(("logit_scale", "logit_bias"), "scale of the loss"),
}
"""What lies beside the image tower, as `Adapter.beside` says it."""

_NAMES = [
    (r"conv1\.(.*)", r"patch_embed.proj.\1"),
    ("class_embedding", "cls_token"),
    ("positional_embedding", "pos_embed"),
    (r"ln_pre\.(.*)", r"norm_pre.\1"),
    (r"ln_post\.(.*)", r"norm.\1"),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])\.(.*)", r"blocks.\1.norm\2.\3"),
    (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(.*)", r"blocks.\1.attn.qkv.\2"),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(.*)", r"blocks.\1.mlp.fc1.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(.*)", r"blocks.\1.mlp.fc2.\2"),
    ("proj", "head.weight"),
]
_OPEN_CLIP_HEADS: Heads = {(384, 12): 6, (768, 12): 12, (1024, 24): 16, (1280, 32): 16, (1408, 40): 16, (1664, 48): 16}


def _place(content: Content) -> tuple[str, str] | None:
    for key, prefix in _PLACES:
        if {f"{prefix}{mark}" for mark in _MARKS} <= content.names(key):
            return key, prefix
    return None


def _weights(content: Content) -> tuple[Weights, ...]:
    key, prefix = _place(content) or ("", "visual.")
    return (Weights(name=key or "visual", key=key, prefix=prefix, what="the image tower"),)


def _rename(tensors: Tensors, _network: Any) -> Mapping[str, Tensor]:
    renamed = substituted(tensors, _NAMES)
    renamed["cls_token"] = renamed["cls_token"][None, None]
    renamed["pos_embed"] = renamed["pos_embed"][None]
    if "head.weight" in renamed:
        renamed["head.weight"] = renamed["head.weight"].T
    return renamed


def _quick_gelu(found: Found, shape: VitShape) -> tuple[bool, str]:
    """Returns (whether the MLPs have QuickGELU, who says so): tensors do not tell it."""
    told = found.settings.arch
    if told is not None:
        model: Any = named_on_meta(told, found.where)
        return isinstance(getattr(model.blocks[0].mlp, "act", None), QuickGELU), f"of {told}, as given"
    if _OPENAI in found.content.names():
        return True, "OpenAI's"
    config = found.content.json(OPEN_CLIP_CONFIG)
    if config is not None and isinstance(config.get("model_cfg"), Mapping):
        return bool(config["model_cfg"].get("quick_gelu", False)), f"{OPEN_CLIP_CONFIG} says so"
    size = {(384, 12): "small", (768, 12): "base", (1024, 24): "large", (1280, 32): "huge"}.get(
        (shape.width, shape.depth), "SIZE"
    )
    names = [f"vit_{size}_patch{shape.patch}_clip_{kind}{shape.img_size}" for kind in ("quickgelu_", "")]
    raise RequestError(
        f"{found.where}: the activation of CLIP's MLPs is not in the tensors: QuickGELU (OpenAI, DFN, MetaCLIP) or "
        f"GELU (LAION and most others): give {asked('arch', names[0])} or {asked('arch', names[1])}, or the "
        f"directory with its {OPEN_CLIP_CONFIG}"
    )


def _network(found: Found) -> Network:
    shapes = in_timm_names(found, _rename)
    quick, activation_origin = _quick_gelu(found, vit_shape(shapes))
    openai = _OPENAI in found.content.names()
    network = vit(
        shapes,
        heads=heads_of_64 if openai else _OPEN_CLIP_HEADS,
        heads_origin="64 dimensions each, as OpenAI's code makes them" if openai else "of open_clip's own sizes",
        positions="fixed" if openai else "antialias",
        feature_origin="its projection, as CLIP's authors' code evaluates",
        evaluation=clip_crop,
        evaluation_origin="as CLIP's own transform",
        eps=1e-5,
        act=QuickGELU if quick else nn.GELU,
        rename=_rename,
        notes=(f"CLIP's paper probes the class token before its projection: {asked('pooling', 'token')}",),
    )
    origins = {**network.origins, "activation": activation_origin}
    config = found.content.json(OPEN_CLIP_CONFIG)
    if config is not None:
        side = network.preprocessing.crop or network.preprocessing.resize
        fed = open_clip_preprocessing(config, side, found.where)
        network = replace(network, preprocessing=fed, preprocessing_origin=f"its {OPEN_CLIP_CONFIG}")
    if "head.weight" not in shapes.tensors:
        return replace(network, origins=origins)
    build = partial(projected, network.build, shapes.shape("head.weight")[0])
    return replace(network, build=build, feature=None, own_feature=None, origins=origins)


ADAPTER = Adapter(
    name="clip",
    summary="CLIP's image towers (OpenAI, open_clip)",
    read_in="openai/CLIP d05afc4 clip/model.py, clip/clip.py; mlfoundations/open_clip 89fb801 transformer.py, model.py",
    rank=Rank.NAMES,
    matches=lambda content: _place(content) is not None,
    weights=_weights,
    beside={
        **TEXT_TOWER,
        **dict.fromkeys((_OPENAI, "context_length", "vocab_size"), "sizes"),
    },
    network=_network,
    licence="unknown",
)
