"""A ViT whose feature is a projection of its class token, as CLIP's image towers are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def projected(build: Callable[[], nn.Module], dim: int) -> nn.Module:
    """Makes a ViT of timm with a projection in the classifier's place, without bias.

    Args:
        build: makes the ViT without a classifier.
        dim: of the projection, which is that of the feature.
    """
    network: Any = build()
    network.head = nn.Linear(network.num_features, dim, bias=False)
    network.head_hidden_size = dim
    return network  # type: ignore[no-any-return]
