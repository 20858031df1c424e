"""Whatever number of a network moves its features is in its identity; what does not, is not asked to be."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from massl_bench.models.checkpoints import build_checkpoint
from massl_bench.models.identity import network_sha256, tensors_sha256
from tests.models.layouts import layouts

FAMILIES = (
    *("massl", "massl_bench", "clip", "open_clip_trunk", "mae", "dinov2_registers", "dinov2_swiglu", "dinov3"),
    *(
        "dinov3_convnext",
        "transformers_dinov3_gated",
        "transformers_vit",
        "timm_vit",
        "simsiam",
        "obow",
        "moco_v3_resnet",
    ),
)
"""Layouts whose networks differ in kind; every class of modules that this package builds is in one of them."""

_seen: set[tuple[type, str]] = set()
"""Attributes of classes that were tried already: layouts share most of them."""


def other_values(value: Any) -> Iterator[Any]:
    """Yields values of the same kind that are not this one."""
    match value:
        case bool():
            yield not value
        case int():
            yield from (value + 1, 2 * value)
        case float():
            yield from (value * 1.5 + 1e-3, value + 0.5)
        case tuple() if value and all(type(each) is int for each in value):
            yield tuple(each + 1 for each in value)


def settings_of(network: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """Yields every attribute of every kind of module that is not a tensor, a module or how it trains."""
    for module in network.modules():
        for name, value in list(vars(module).items()):
            if name in ("training", "_version") or (type(module), name) in _seen:
                continue
            _seen.add((type(module), name))
            yield module, name, value


def features_of(network: nn.Module, images: torch.Tensor) -> torch.Tensor | None:
    """Returns the features, or None where the network does not take the images any more."""
    try:
        with torch.inference_mode():
            found: torch.Tensor = network(images)
    except Exception:  # a changed network may fail in any way
        return None
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_what_moves_features_is_in_the_identity(name: str, tmp_path: Path) -> None:
    made = layouts()[name].make(tmp_path)
    network = build_checkpoint(made.path, "x", made.settings).backbone
    images = torch.randn(2, 3, made.side, made.side, generator=torch.Generator().manual_seed(0))
    whole, identity = features_of(network, images), network_sha256(network)
    assert whole is not None
    rounding = 1e-4 * whole.abs().max()
    unseen = []
    for module, attribute, value in settings_of(network):
        for other in other_values(value):
            vars(module)[attribute] = other
            found = features_of(network, images)
            # Rounding is no move: which kernel computes a product is no part of what a network is.
            moved = found is not None and (found.shape != whole.shape or (found - whole).abs().max() > rounding)
            if moved and network_sha256(network) == identity:
                unseen.append(f"{type(module).__name__}.{attribute}: {value} -> {other}")
            vars(module)[attribute] = value
    assert not unseen
    assert network_sha256(network) == identity


class Scaled(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.function(images)
        return found


def test_functions_with_their_arguments_are_in_the_identity() -> None:
    functions = [
        functional.gelu,
        functional.relu,
        partial(functional.gelu, approximate="tanh"),
        partial(functional.leaky_relu, negative_slope=0.1),
        partial(functional.leaky_relu, negative_slope=0.2),
        nn.GELU().forward,
        nn.ReLU().forward,
    ]
    assert len({network_sha256(Scaled(function)) for function in functions}) == len(functions)
    assert network_sha256(Scaled(partial(functional.gelu))) == network_sha256(Scaled(partial(functional.gelu)))


def test_every_value_of_every_tensor_is_in_the_identity() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    hashes = {tensors_sha256(network)}
    changed = 0
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):  # read by no forward pass
            continue
        for index in range(tensor.numel()):
            tensor.view(-1)[index] += 0.25
            hashes.add(tensors_sha256(network))
            changed += 1
    assert len(hashes) == changed + 1
