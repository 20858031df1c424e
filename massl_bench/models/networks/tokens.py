"""Features of a ViT's tokens other than its own. Shapes: B images, T tokens, P patch tokens, D width."""

from __future__ import annotations

import copy
from typing import Any

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from massl_bench.core.settings import ClassGem


def generalised_mean(tokens: Tensor, exponent: float, floor: float) -> Tensor:
    """Returns the generalised mean [B, D] of tokens [B, P, D] (Radenović et al., TPAMI 2019, equation 3).

    Args:
        tokens: of any sign; smaller values are raised to `floor`.
        exponent: 1 is the mean, and larger ones come nearer to the maximum.
        floor: positive.
    """
    return tokens.float().clamp(min=floor).pow(exponent).mean(dim=1).pow(1 / exponent)


def at_size(network: Any, side: int) -> Any:
    """Returns a network of timm that takes images of `side` × `side` pixels.

    One that takes a single size only is copied, with its position embeddings interpolated by timm (bicubic,
    antialiased; the published code of MaSSL and DINO, which our own ViT follows, does not antialias).
    """
    embed = getattr(network, "patch_embed", None)  # a convolutional network takes any size
    if embed is None or getattr(network, "dynamic_img_size", False) or embed.img_size == (side, side):
        return network
    resized = copy.deepcopy(network)
    resized.set_input_size(img_size=(side, side))
    return resized


class ClassGemFeatures(nn.Module):
    """The class token and the generalised mean of the patch tokens of a ViT, one after the other: [B, 2 D].

    Args:
        network: a ViT of timm; registers, where it has them, are in neither part.
        pooling: exponent and floor.
    """

    def __init__(self, network: Any, pooling: ClassGem) -> None:
        super().__init__()
        self._network, self._pooling = network, pooling

    def forward(self, images: Tensor) -> Tensor:
        """Returns float32 [B, 2 D] of normalised images [B, 3, H, W]."""
        tokens_BTD = self._network.forward_features(images)
        patches_BPD = tokens_BTD[:, self._network.num_prefix_tokens :]
        gem_BD = generalised_mean(patches_BPD, self._pooling.exponent, self._pooling.floor)
        return torch.cat([tokens_BTD[:, 0].float(), gem_BD], dim=1)


class PatchTokensFeatures(nn.Module):
    """The patch tokens of a ViT after the final norm: [B, P, D].

    Args:
        network: a ViT of timm.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self._network = network

    def forward(self, images: Tensor) -> Tensor:
        """Returns float32 [B, P, D] of normalised images [B, 3, H, W]."""
        tokens_BTD = self._network.forward_features(images)
        patches_BPD: Tensor = tokens_BTD[:, self._network.num_prefix_tokens :]
        return patches_BPD.float()


def num_token_blocks(network: nn.Module) -> int | None:
    """Returns the number of blocks of a ViT whose feature is its class token; None for any other network."""
    if isinstance(network, VisionTransformer) and network.global_pool == "token" and network.cls_token is not None:
        return len(network.blocks)
    return None


def token_dim(network: nn.Module) -> int | None:
    """Returns the width of a network's tokens, or None where it has no class token and patch tokens after one norm."""
    if not isinstance(network, VisionTransformer | Eva) or network.cls_token is None:
        return None
    # A network that normalises its pooled tokens instead has an identity here.
    return None if isinstance(network.norm, nn.Identity) else int(network.num_features)
