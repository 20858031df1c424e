"""Encoders from timm: its own pretrained weights, a hub repository in its format, or a seeded random initialisation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch

from massl_bench.core.errors import MissingDataError, RequestError, one_line, unknown_name
from massl_bench.core.hub import check_hub_cache, check_hub_reachable
from massl_bench.core.settings import DEFAULT_PREPROCESSING
from massl_bench.core.wording import asked
from massl_bench.models.adapter import Network
from massl_bench.models.assemble import assembled
from massl_bench.models.build import own_feature
from massl_bench.models.card import ModelCard
from massl_bench.models.encoder import Encoder
from massl_bench.models.source import Reference
from massl_bench.models.timm_config import timm_preprocessing

RANDOM_SEED = 0
"""Of the initialisation of `random:` models: the same name always means the same tensors."""


def build_pretrained(reference: Reference, hub: bool, known: ModelCard | None) -> Encoder:
    """Returns the encoder of `timm:NAME` or `hf-hub:ORG/NAME`; features are timm's pooled ones.

    Raises:
        RequestError: The name is unknown, or the model's preprocessing is of a kind that is not supported.
        MissingDataError: The weights are not on this machine and could not, or may not, be downloaded.
    """
    name = reference.rest
    if not hub:
        _check_name(name)
        if not timm.models.is_model_pretrained(name):
            raise RequestError(
                f"model {reference.text}: timm has no pretrained weights of this name; random:{name} is untrained"
            )
    if hub:
        check_hub_cache(name.partition("@")[0], "model")
    network = _create_pretrained(f"hf-hub:{name}" if hub else name, reference)
    config = network.pretrained_cfg
    network.reset_classifier(0)
    described = _described(network, str(config["architecture"]), reference.text)
    files = [path for path in [_weights_file(config)] if path is not None]
    return assembled(
        network,
        described,
        reference=reference.text,
        settings=reference.settings,
        name=reference.text,
        weights_origin=str(config.get("hf_hub_id") or config.get("url") or "timm"),
        licence=config.get("license") or "unknown",
        files=files,
        known=known,
    )


def build_random(reference: Reference, known: ModelCard | None) -> Encoder:
    """Returns the encoder of `random:NAME`: an architecture of timm with weights that are a function of its name.

    Raises:
        RequestError: The name is unknown.
    """
    name = reference.rest
    _check_name(name)
    options: dict[str, Any] = {}
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        options["img_size"] = reference.settings.img_size or DEFAULT_PREPROCESSING.crop
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        try:
            network: Any = timm.create_model(name, pretrained=False, **options)
        except (AssertionError, ValueError, TypeError, RuntimeError) as error:
            raise RequestError(f"model {reference.text}: timm does not make it so: {one_line(error)}") from None
    network.reset_classifier(0)
    described = replace(
        _described(network, name.partition(".")[0], reference.text),
        preprocessing=DEFAULT_PREPROCESSING,
        preprocessing_origin="the default (random weights have none of their own)",
    )
    return assembled(
        network,
        described,
        reference=reference.text,
        settings=reference.settings,
        name=reference.text,
        weights_origin=f"random initialisation, seed {RANDOM_SEED}",
        licence="none: no trained weights",
        reproducible=True,
        known=known,
    )


def _check_name(name: str) -> None:
    if not timm.is_model(name):
        known = timm.list_models() if "." not in name else timm.list_pretrained()
        raise unknown_name("timm model", name, known)


def _described(network: Any, architecture: str, text: str) -> Network:
    return Network(
        architecture=architecture,
        build=lambda: network,
        own_feature=own_feature(network),
        preprocessing=timm_preprocessing(network, f"model {text}"),
        preprocessing_origin="the model's own data config (timm)",
    )


def _create_pretrained(name: str, reference: Reference) -> Any:
    """Returns the network with its classifier, so that timm loads strictly: without it timm admits missing tensors."""
    from huggingface_hub import constants

    unreachable = None
    if reference.options.download:
        try:
            check_hub_reachable(f"model {reference.text}")
        except MissingDataError as error:
            unreachable = error  # what the weights need may be on this machine
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or unreachable is not None or not reference.options.download
    options: dict[str, Any] = {} if reference.settings.img_size is None else _sized(name, reference.settings.img_size)
    try:
        return timm.create_model(name, pretrained=True, **options)
    except RuntimeError as error:
        if "state_dict" in str(error):
            raise RequestError(
                f"model {reference.text}: its weights do not fit the architecture: {one_line(error)}"
            ) from None
        raise unreachable or _unavailable(reference, error) from None
    except Exception as error:  # the hub's client and its transport raise errors of many kinds
        raise unreachable or _unavailable(reference, error) from None
    finally:
        constants.HF_HUB_OFFLINE = before


def _sized(name: str, side: int) -> dict[str, Any]:
    """Returns what timm must be told to make an architecture for another size; nothing where it takes any."""
    config = timm.get_pretrained_cfg(name) if not name.startswith("hf-hub:") else None
    return {"img_size": side} if config is not None and config.fixed_input_size else {}


def _unavailable(reference: Reference, error: Exception) -> MissingDataError:
    allowed = reference.options.download
    why = (
        "could not be loaded or downloaded" if allowed else f"are not on this machine, and {asked('offline')} was given"
    )
    return MissingDataError(f"model {reference.text}: its weights {why}: {one_line(error)}")


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
