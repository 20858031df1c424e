"""Encoders from timm: its own pretrained weights, a hub repository in its format, or a seeded random initialisation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_data_config
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from massl_bench.core.errors import MissingDataError, RequestError, one_line, unknown_name
from massl_bench.core.files import sha256_file
from massl_bench.core.settings import DEFAULT_PREPROCESSING, Preprocessing
from massl_bench.models.encoder import Encoder, num_parameters, tensors_sha256
from massl_bench.models.model import ModelCard
from massl_bench.models.vit import num_token_blocks

RANDOM_SEED = 0
"""Of the initialisation of `random:` models: the same name always means the same tensors."""


def build_timm(prefix: str, name: str, reference: str, download: bool) -> Encoder:
    """Returns the encoder of `timm:NAME`, `hf-hub:ORG/NAME` or `random:NAME`; features are timm's pooled ones.

    Raises:
        RequestError: The name is unknown, or the model's preprocessing is of a kind that is not supported.
        MissingDataError: The weights are not on this machine and could not, or may not, be downloaded.
    """
    if prefix in ("timm", "random") and not timm.is_model(name):
        known = timm.list_models() if "." not in name else timm.list_pretrained()
        raise unknown_name("timm model", name, known)
    if prefix == "random":
        return _build_random(name, reference)
    if prefix == "timm" and not timm.models.is_model_pretrained(name):
        raise RequestError(
            f"model {reference}: timm has no pretrained weights of this name; random:{name} is untrained"
        )
    network = _create_pretrained(name if prefix == "timm" else f"hf-hub:{name}", reference, download)
    config = network.pretrained_cfg
    files = [path for path in [_weights_file(config)] if path is not None]
    card = ModelCard(
        name=reference,
        reference=reference,
        architecture=config["architecture"],
        pooling=pooling_of(network),
        embed_dim=_without_classifier(network),
        num_blocks=num_token_blocks(network),
        token_dim=token_dim(network),
        num_parameters=num_parameters(network),
        weights_sha256=sha256_file(files[0]) if files else tensors_sha256(network),
        weights_hash_of="file" if files else "tensors",
        weights_origin=str(config.get("hf_hub_id") or config.get("url") or "timm"),
        preprocessing=timm_preprocessing(network, reference),
        preprocessing_origin="the model's own data config (timm)",
        licence=config.get("license") or "unknown",
    )
    return Encoder(network, card, files=files)


def _build_random(name: str, reference: str) -> Encoder:
    options: dict[str, Any] = {}
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        options["img_size"] = DEFAULT_PREPROCESSING.crop
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        network = timm.create_model(name, pretrained=False, **options)
    embed_dim = _without_classifier(network)
    card = ModelCard(
        name=reference,
        reference=reference,
        architecture=name.partition(".")[0],
        pooling=pooling_of(network),
        embed_dim=embed_dim,
        num_blocks=num_token_blocks(network),
        token_dim=token_dim(network),
        num_parameters=num_parameters(network),
        weights_sha256=tensors_sha256(network),
        weights_hash_of="tensors",
        weights_origin=f"random initialisation, seed {RANDOM_SEED}",
        preprocessing=DEFAULT_PREPROCESSING,
        preprocessing_origin="the default (random weights have none of their own)",
        licence="none: no trained weights",
    )
    return Encoder(network, card, reproducible=True)


def _create_pretrained(name: str, reference: str, download: bool) -> Any:
    """Returns the network with its classifier, so that timm loads strictly: without it timm admits missing tensors."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not download
    try:
        return timm.create_model(name, pretrained=True)
    except RuntimeError as error:
        if "state_dict" in str(error):
            raise RequestError(
                f"model {reference}: its weights do not fit the architecture: {one_line(error)}"
            ) from None
        raise MissingDataError(_unavailable(reference, error, download)) from None
    except Exception as error:  # the hub's client and its transport raise errors of many kinds
        raise MissingDataError(_unavailable(reference, error, download)) from None
    finally:
        constants.HF_HUB_OFFLINE = before


def _unavailable(reference: str, error: Exception, download: bool) -> str:
    why = "could not be loaded or downloaded" if download else "are not on this machine, and --offline was given"
    return f"model {reference}: its weights {why}: {one_line(error)}"


def _without_classifier(network: Any) -> int:
    """Removes the classifier, so that the network returns its pooled features; returns their number."""
    network.reset_classifier(0)
    return int(getattr(network, "head_hidden_size", None) or network.num_features)


def pooling_of(network: nn.Module) -> str:
    """Returns what the feature of a network of timm is, in words."""
    pool = str(getattr(network, "global_pool", "") or "")
    match pool:
        case "token":
            return "class token after the final norm"
        case "avg":
            return "mean of the patch tokens, normalised"
        case _:
            return "pooled map" if hasattr(network, "conv1") or not pool else f"timm's pooled features ({pool})"


def token_dim(network: nn.Module) -> int | None:
    """Returns the width of a network's tokens, or None where it has no class token and patch tokens after one norm."""
    if not isinstance(network, (VisionTransformer, Eva)) or network.cls_token is None:
        return None
    # A network that normalises its pooled tokens instead has an identity here.
    return None if isinstance(network.norm, nn.Identity) else int(network.num_features)


def _weights_file(config: dict[str, Any]) -> Path | None:
    """Returns the file in the hub's cache that timm has just loaded, or None where it came another way."""
    from huggingface_hub import try_to_load_from_cache

    repo = config.get("hf_hub_id")
    if not repo:
        return None
    repo, _, revision = repo.partition("@")
    for filename in (config.get("hf_hub_filename"), "model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(repo, filename, revision=revision or None) if filename else None
        if isinstance(found, str):
            return Path(found)
    return None


def timm_preprocessing(network: nn.Module, reference: str) -> Preprocessing:
    """Returns the preprocessing that a timm model asks for, as timm's own evaluation transform applies it."""
    config = resolve_data_config({}, model=network)  # type: ignore[no-untyped-call]
    _, height, width = config["input_size"]
    if height != width or config["crop_mode"] not in ("center", "squash"):
        raise RequestError(
            f"model {reference}: its data config asks for a {height} × {width} input and crop mode "
            f"{config['crop_mode']!r}; "
            "supported: square inputs, center and squash"
        )
    return Preprocessing(
        resize=math.floor(height / config["crop_pct"]),
        resize_mode="shortest" if config["crop_mode"] == "center" else "squash",
        crop=height,
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
