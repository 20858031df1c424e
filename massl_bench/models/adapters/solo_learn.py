"""solo-learn: a backbone with an online classifier, and the heads and the momentum twin of its method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from massl_bench.core.settings import Preprocessing, own_size
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.build import timm_network, vit
from massl_bench.models.content import Content
from massl_bench.models.evaluations import bilinear_crop
from massl_bench.models.renaming import in_timm_names
from massl_bench.models.resnets import resnet
from massl_bench.models.shapes import Heads, count_blocks, has_fixed_positions
from massl_bench.models.swin import SWIN_TABLES, swin

_KEY = "state_dict"
_STEM = "resnet_small_images_padding2"
_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
_HEADS = ("projector.", "predictor.", "head.", "prototypes.", "momentum_backbone.", "momentum_encoder.", "decoder.")
_SWIN, _CONVNEXT = "layers.0.blocks.0.attn.relative_position_bias_table", "stages.0.blocks.0.conv_dw.weight"
_MARKS = ("layer1.0.conv1.weight", "blocks.0.attn.qkv.weight", _SWIN, _CONVNEXT)
_VITS: Heads = {(192, 12): 3, (384, 12): 6, (768, 12): 12, (1024, 24): 16}
_FIXED_VITS: Heads = {(192, 12): 12, (384, 12): 12, (768, 12): 12, (1024, 24): 16, (1280, 32): 16}
"""Its ViTs for MAE and MoCo v3 have fixed position embeddings, and 12 heads up to `vit_base`."""


def _prefix(content: Content) -> str | None:
    """Returns the prefix of the backbone: `encoder` in files of 2021."""
    own = content.has("pytorch-lightning_version") and content.any_under("classifier.", _KEY)
    if not own or not any(content.any_under(head, _KEY) for head in _HEADS):
        return None
    names = ("backbone", "encoder")
    tensors = content.names(_KEY)
    marks = [f"{whose}{{}}.{mark}" for whose in ("", "momentum_") for mark in _MARKS]
    return next((name for name in names if any(mark.format(name) in tensors for mark in marks)), None)


def _inside(content: Content) -> Mapping[str, str]:
    """Returns what lies inside the backbone and is no part of it; of ConvNeXt, `head.norm` is one."""
    tables = {**SWIN_TABLES, "layers.*.blocks.*.attn_mask": "mask of shifted windows, which is computed"}
    return {"fc.": "classifier", "head.weight": "classifier", "head.bias": "classifier", **tables}


def _weights(content: Content) -> tuple[Weights, ...]:
    name = _prefix(content) or "backbone"
    momentum = f"momentum_{name}"
    return (
        Weights(name=name, key=_KEY, prefix=f"{name}.", what="the online network"),
        Weights(name=momentum, key=_KEY, prefix=f"{momentum}.", what="the momentum network"),
    )


def _cifar(side: int) -> Preprocessing:
    return own_size(side, interpolation="bilinear", mean=_CIFAR_MEAN, std=_CIFAR_STD)


def _vit(found: Found) -> Network:
    fixed = has_fixed_positions(found.tensors, found.where)
    return vit(
        in_timm_names(found),
        heads=_FIXED_VITS if fixed else _VITS,
        heads_origin="of solo-learn's ViTs for MAE and MoCo v3: these have fixed position embeddings"
        if fixed
        else "of solo-learn's ViTs, which are timm's",
        positions="fixed" if fixed else "antialias",
        feature_origin="as solo-learn evaluates",
        evaluation=lambda side: _cifar(side) if side <= 32 else bilinear_crop(side),
        evaluation_origin="as solo-learn's evaluation",
    )


def _convnext(found: Found) -> Network:
    dims = tuple((*found.shape(f"stages.{stage}.blocks.0.conv_dw.weight"), 0)[0] for stage in range(4))
    depths = tuple(count_blocks(found.tensors, rf"stages\.{stage}\.blocks", found.where) for stage in range(4))
    return timm_network(
        found,
        "convnext_tiny",
        preprocessing=bilinear_crop(224),
        preprocessing_origin="as solo-learn's evaluation on ImageNet",
        origin="the file's shapes",
        dims=dims,
        depths=depths,
    )


def _swin(found: Found) -> Network:
    network = swin(
        found,
        eps=1e-5,
        evaluation_origin="as solo-learn's evaluation on ImageNet",
        feature_origin="as solo-learn evaluates",
    )
    return replace(network, preprocessing=bilinear_crop(network.preprocessing.crop or network.preprocessing.resize))


_KINDS = {_SWIN: _swin, _CONVNEXT: _convnext}


def _network(found: Found) -> Network:
    for mark, kind in _KINDS.items():
        if mark in found.tensors:
            return kind(found)
    if "patch_embed.proj.weight" in found.tensors:
        return _vit(found)
    if found.shape("conv1.weight")[2:] != (3, 3):
        return resnet(found, evaluation=bilinear_crop, evaluation_origin="as solo-learn's evaluation on ImageNet")
    assumed = () if found.settings.arch is not None else (f"its stem is taken as solo-learn's for CIFAR ({_STEM})",)
    return resnet(
        found, evaluation=_cifar, evaluation_origin="as solo-learn's evaluation on CIFAR", stem=_STEM, notes=assumed
    )


ADAPTER = Adapter(
    name="solo_learn",
    summary="solo-learn (online and momentum ResNet, ViT, Swin or ConvNeXt, heads, online classifier)",
    read_in="vturrisi/solo-learn 2aa1e64 solo/data/classification_dataloader.py; 9187ea3 solo/methods; "
    "7af3e44 solo/backbones/vit/vit.py, 1ee0bf9 vit_mocov3.py, 15824b4 vit_mae.py, 14be766 solo/methods/mae.py, "
    "073e6db solo/backbones/swin/swin.py, 94e01eb convnext/convnext.py",
    rank=Rank.NAMES,
    matches=lambda content: _prefix(content) is not None,
    weights=_weights,
    inside=_inside,
    beside={
        "classifier.": "classifier",
        "momentum_classifier.": "classifier",
        "projector.": "projector",
        "momentum_projector.": "projector",
        "head.": "projector",
        "momentum_head.": "projector",
        "predictor.": "predictor",
        "momentum_predictor.": "predictor",
        "prototypes.": "prototypes",
        "decoder.": "decoder",
        "dino_loss_func.": "loss",
        **dict.fromkeys(("queue", "queue_y", "queue_ptr", "queue_proj", "queue_index"), "queue"),
    },
    network=_network,
)
