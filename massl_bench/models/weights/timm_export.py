"""A model as a directory in timm's hub layout, which `local-dir:DIR` and `hf-hub:REPO` load, here and in timm."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from massl_bench.core.errors import MasslBenchError, RequestError
from massl_bench.core.files import sealed, sha256_file
from massl_bench.core.settings import Preprocessing
from massl_bench.core.wording import asked
from massl_bench.models.checkpoints import build_checkpoint
from massl_bench.models.content import WEIGHTS_HASH
from massl_bench.models.encoder import Encoder
from massl_bench.models.networks.features import WORDS
from massl_bench.models.networks.vit import OfficialVisionTransformer

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TIMM_FILES = (CONFIG, WEIGHTS)

_BASE = "vit_base_patch16_224"
"""Whose arguments all others replace, where timm has no ViT of these dimensions."""

_CLOSE = 1e-5
"""Of the largest value of a feature: timm adds in another order than the authors' own attention."""


def write_timm_directory(encoder: Encoder, folder: Path, licence: str) -> list[str]:
    """Writes `config.json` and `model.safetensors`, and proves that both timm and this package read the same encoder.

    Returns:
        What a reader should know, in sentences.

    Raises:
        RequestError: The layout cannot say what this model is.
        OSError: A file could not be written.
    """
    tensors, arguments, notes = _for_timm(encoder)
    config = {
        "architecture": _architecture(encoder),
        "num_classes": 0,
        "num_features": int(getattr(encoder.backbone, "num_features", encoder.card.embed_dim)),
        **({"global_pool": arguments["global_pool"]} if "global_pool" in arguments else {}),
        "pretrained_cfg": {
            "tag": "massl-bench",
            **_data_config(encoder.card.preprocessing),
            "num_classes": 0,
            "license": licence,
        },
        "model_args": arguments,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS, {"format": "pt"})
    # timm passes these two by; this package compares them.
    told = sealed({**config, WEIGHTS_HASH: sha256_file(folder / WEIGHTS)})
    (folder / CONFIG).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _check(encoder, folder)
    return notes


def _refused(encoder: Encoder, why: str) -> RequestError:
    return RequestError(
        f"{asked('format', 'timm')} cannot say what {encoder.card.architecture} is: {why}",
        where=f"model {encoder.card.name}",
        remedy=f"{asked('format', 'safetensors')} keeps it",
    )


def _for_timm(encoder: Encoder) -> tuple[Mapping[str, Tensor], dict[str, Any], list[str]]:
    """Returns (tensors, arguments of timm's constructor, what a reader should know)."""
    network: Any = encoder.backbone
    tensors = dict(network.state_dict())
    feature = next((name for name, words in WORDS.items() if words == encoder.card.pooling), None)
    if feature not in (None, "token", "avg"):
        raise _refused(encoder, f"timm's networks do not return the feature: {encoder.card.pooling}")
    size = getattr(getattr(network, "patch_embed", None), "img_size", None)
    if not isinstance(network, VisionTransformer):
        return tensors, {"img_size": int(size[0])} if size else {}, []
    side = encoder.card.preprocessing.crop or network.patch_embed.img_size[0]
    notes = []
    if isinstance(network, OfficialVisionTransformer) and network.pos_embed is not None:
        rows = side // network.patch_embed.patch_size[0]
        tensors["pos_embed"] = network._positions(rows, rows)
        if not torch.equal(tensors["pos_embed"], network.pos_embed):
            notes.append(f"The position embeddings are resampled to images of {side} pixels, by the authors' rule.")
        if network.position_rule != "antialias":
            notes.append(
                f"At other sizes than {side} pixels timm resamples position embeddings otherwise than its authors."
            )
    return tensors, _vit_arguments(network, side, feature or str(network.global_pool)), notes


def _vit_arguments(network: Any, side: int, pool: str) -> dict[str, Any]:
    block, width = network.blocks[0], network.embed_dim
    scale = getattr(block.ls1, "gamma", None)
    return {
        "img_size": side,
        "patch_size": int(network.patch_embed.patch_size[0]),
        "embed_dim": width,
        "depth": len(network.blocks),
        "num_heads": block.attn.num_heads,
        "mlp_ratio": block.mlp.fc1.out_features / width if hasattr(block.mlp.fc1, "out_features") else 4.0,
        "qkv_bias": block.attn.qkv.bias is not None,
        "class_token": network.cls_token is not None,
        "reg_tokens": 0 if network.reg_token is None else network.reg_token.shape[1],
        "no_embed_class": bool(network.no_embed_class),
        "pos_embed": "learn" if network.pos_embed is not None else "none",
        "init_values": 1e-5 if scale is not None else None,
        "pre_norm": not isinstance(network.norm_pre, torch.nn.Identity),
        "fc_norm": not isinstance(network.fc_norm, torch.nn.Identity),
        "global_pool": pool,
    }


def _architecture(encoder: Encoder) -> str:
    name = encoder.card.architecture
    known = next((each for each in (name, f"{name}_224") if timm.is_model(each)), None)
    if known is None and isinstance(encoder.backbone, VisionTransformer):
        return _BASE
    if known is None:
        raise _refused(encoder, "timm has no such network")
    return known


def _data_config(preprocessing: Preprocessing) -> dict[str, Any]:
    crop, resize = preprocessing.crop, preprocessing.resize
    if crop is None or preprocessing.resize_mode == "longest":
        raise RequestError(
            f"{asked('format', 'timm')}: its data config cannot say: {preprocessing.describe()}",
            remedy=f"{asked('format', 'safetensors')} keeps it",
        )
    share = crop / resize
    while math.floor(crop / share) < resize:  # timm divides again, and rounds down
        share = math.nextafter(share, 0.0)
    return {
        "input_size": [3, crop, crop],
        "fixed_input_size": True,
        "interpolation": preprocessing.interpolation,
        "crop_pct": share,
        "crop_mode": "center" if preprocessing.resize_mode == "shortest" else "squash",
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }


def _check(encoder: Encoder, folder: Path) -> None:
    """Raises `RequestError` where the directory is not read as the same encoder, by timm or by this package."""
    side = encoder.card.preprocessing.crop
    assert side is not None
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    expected = encoder(images)
    try:
        read = build_checkpoint(folder, encoder.card.name)
        with torch.inference_mode():
            of_timm = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()(images)
    except MasslBenchError as error:
        raise _refused(encoder, f"read again, {error}") from None
    except Exception as error:  # timm's own
        raise _refused(encoder, f"timm does not read it: {type(error).__name__}: {error}") from None
    if read.card.preprocessing != encoder.card.preprocessing:
        raise _refused(encoder, f"read again, it is fed otherwise: {read.card.preprocessing.describe()}")
    for who, found in (("this package", read(images)), ("timm", of_timm)):
        if found.shape != expected.shape or not torch.allclose(
            found, expected, rtol=0.0, atol=_CLOSE * float(expected.abs().max())
        ):
            raise _refused(encoder, f"read again by {who}, it gives other features")
