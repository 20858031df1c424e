"""An encoder of one's own: any module of torch that maps images to features."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import sha256_of
from massl_bench.core.settings import Preprocessing
from massl_bench.models.card import ModelCard
from massl_bench.models.identity import describe_network
from massl_bench.models.transforms import preprocessing_of

_LIBRARIES = ("torch.", "torchvision.", "timm.", "builtins")
"""Whose classes their name and version identify; of others the source is hashed."""


def card_of_module(module: nn.Module, *, name: str, transform: Any = None) -> ModelCard:
    """Returns what a module is; `Encoder.from_module` documents arguments and errors."""
    if not isinstance(module, nn.Module):
        raise RequestError(f"from_module: expected a torch.nn.Module, found {type(module).__name__}")
    if not name.strip():
        raise RequestError("from_module: name: expected what a leaderboard shall show, found nothing")
    preprocessing = preprocessing_of(transform)
    network = module.eval()
    embed_dim = _features_of(network, preprocessing)
    numbers = dict(describe_network(network))
    code, unread = _code_of(network)
    numbers["network_sha256"] = sha256_of([numbers["network_sha256"], code])
    notes = [f"the code of {', '.join(unread)} could not be read: another one under this name is not told from it"]
    return ModelCard(
        name=name,
        reference=f"{name} (a module in Python)",
        architecture=type(network).__name__,
        pooling="what the module returns",
        embed_dim=embed_dim,
        num_blocks=None,
        blocks=(),
        patch_dim=None,
        token_dim=None,
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        weights_origin=f"a module in Python ({type(network).__module__}.{type(network).__qualname__})",
        preprocessing=preprocessing,
        preprocessing_origin="the transform that was given",
        notes=tuple(notes if unread else ()),
        **numbers,
    )


def _features_of(network: nn.Module, preprocessing: Preprocessing) -> int:
    """Returns the number of features; raises where images of the preprocessing do not become [B, D]."""
    side = preprocessing.crop or 224
    parameter = next(network.parameters(), torch.empty(0))
    images = torch.zeros(2, 3, side, side, device=parameter.device)
    try:
        with torch.inference_mode():
            features = network(images)
    except Exception as error:  # the user's own code
        raise RequestError(
            f"from_module: the module does not take images [2, 3, {side}, {side}]: {type(error).__name__}: "
            f"{one_line(error)}"
        ) from None
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 2:
        found = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise RequestError(
            f"from_module: expected features [2, D] of two images, found {found}; pool them, or choose one output, in "
            "a module around yours"
        )
    return features.shape[1]


def _code_of(network: nn.Module) -> tuple[dict[str, str], list[str]]:
    """Returns (source of every class of the network that no library has, names of those whose source is not there)."""
    sources, unread = {}, []
    for kind in {type(module) for module in network.modules()}:
        if kind.__module__.startswith(_LIBRARIES):
            continue
        place = f"{kind.__module__}.{kind.__qualname__}"
        try:
            sources[place] = inspect.getsource(kind)
        except (OSError, TypeError):
            unread.append(place)
    return sources, sorted(unread)
