"""A directory in timm's hub layout: `config.json` says architecture, arguments and preprocessing, and is obeyed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import timm
from timm.models._hub import load_model_config_from_path

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import sha256_file
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.build import timm_network
from massl_bench.models.content import WEIGHTS_HASH, Content
from massl_bench.models.timm_config import timm_filter, timm_preprocessing

_CONFIG = "config.json"


def _matches(content: Content) -> bool:
    config = content.json(_CONFIG)
    return config is not None and isinstance(config.get("architecture"), str) and "model_type" not in config


def _config(content: Content) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Returns (data config, architecture, arguments), as timm itself reads them."""
    assert content.folder is not None
    try:
        cfg, arch, arguments = load_model_config_from_path(content.folder)
        timm.models.PretrainedCfg(**{key: value for key, value in cfg.items() if key != "architecture"})
    except Exception as error:  # a configuration of any content goes through timm's code
        raise RequestError(f"{content.folder / _CONFIG}: timm does not read it: {one_line(error)}") from None
    return cfg, str(arch).partition(".")[0], arguments


def _inside(content: Content) -> dict[str, str]:
    """Returns the classifier's names, as the config says them, where the file has one."""
    named = _config(content)[0].get("classifier") or ()
    return {f"{name}.": "classifier" for name in ([named] if isinstance(named, str) else named)}


def _network(found: Found) -> Network:
    cfg, arch, arguments = _config(found.content)
    told = (found.content.json(_CONFIG) or {}).get(WEIGHTS_HASH)
    if told is not None and sha256_file(found.content.file) != told:
        raise RequestError(f"{found.content.file}: damaged: its bytes are not those that its {_CONFIG} is of")
    if found.settings.arch is not None:
        text = f"its {_CONFIG} says {arch}"
        raise RequestError(text, where=found.where, field="arch", found=found.settings.arch)
    network = timm_network(
        found,
        arch,
        origin=f"{_CONFIG} says so",
        rename=partial(timm_filter, arch),
        licence=cfg.get("license"),
        pretrained_cfg=cfg,
        **arguments,
    )
    import torch

    with torch.device("meta"):
        preprocessing = timm_preprocessing(network.build(), found.where)
    return replace(network, preprocessing=preprocessing, preprocessing_origin=f"pretrained_cfg of its {_CONFIG}")


def _weights(content: Content) -> tuple[Weights, ...]:
    key = next((key for key in ("state_dict", "model") if content.has(key)), "")
    return (Weights(name=key or "state dict", key=key),)


ADAPTER = Adapter(
    name="timm_dir",
    summary="a directory in timm's hub layout",
    read_in="huggingface/pytorch-image-models 1.0.31 _hub.py (save_for_hf, load_model_config_from_path)",
    rank=Rank.DECLARED,
    matches=_matches,
    weights=_weights,
    inside=_inside,
    network=_network,
)
