"""What becomes the feature of a network with tokens. Shapes: B images, T tokens, P prefix tokens, D width."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from typing_extensions import override

from massl_bench.core.model_settings import FeatureName

_BLOCKS = 4

WORDS: dict[FeatureName, str] = {
    "token": "class token after the final norm",
    "avg": "mean of the patch tokens after the final norm",
    "token+avg": "class token and mean of the patch tokens, after the final norm",
    "token-before-norm": "class token before the final norm",
    "last4": "class tokens of the last 4 blocks, after the final norm",
}


class TokenFeature(nn.Module):
    """A feature of a ViT, as `WORDS` says: [B, D], or several of them one after the other.

    Args:
        network: a ViT of timm.
        feature: which.
    """

    def __init__(self, network: Any, feature: FeatureName) -> None:
        super().__init__()
        self.network, self.feature = network, feature

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Returns the features of normalised images [B, 3, H, W]."""
        if self.feature in ("last4", "token-before-norm"):
            return self._of_blocks(images)
        return of_tokens(self.network.forward_features(images), self.feature, self.network.num_prefix_tokens)

    def _of_blocks(self, images: Tensor) -> Tensor:
        count = min(_BLOCKS, len(self.network.blocks)) if self.feature == "last4" else 1
        blocks = self.network.forward_intermediates(
            images,
            indices=count,
            return_prefix_tokens=True,
            norm=self.feature == "last4",
            output_fmt="NLC",
            intermediates_only=True,
        )
        return torch.cat([prefix_BPD[:, 0] for _, prefix_BPD in blocks], dim=1)


def of_tokens(tokens_BTD: Tensor, feature: FeatureName, num_prefix: int) -> Tensor:
    """Returns `token`, `avg` or `token+avg` of tokens after the norm, of which the first are no patches: [B, D]."""
    patches_BD: Tensor = tokens_BTD[:, num_prefix:].mean(dim=1)
    if feature == "avg":
        return patches_BD
    first_BD: Tensor = tokens_BTD[:, 0]
    return first_BD if feature == "token" else torch.cat([first_BD, patches_BD], dim=1)


def features_of(network: nn.Module) -> tuple[FeatureName, ...]:
    """Returns the features that a network has tokens for; none where it has no tokens after one norm."""
    if not isinstance(network, VisionTransformer | Eva) or isinstance(network.norm, nn.Identity):
        return ()
    return tuple(WORDS) if network.cls_token is not None else ("avg",)


def feature_dim(network: Any, feature: FeatureName) -> int:
    """Returns the number of dimensions of a feature."""
    times = {"token+avg": 2, "last4": min(_BLOCKS, len(network.blocks))}.get(feature, 1)
    return times * int(network.num_features)
