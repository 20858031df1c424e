"""Features of a network's blocks. Shapes: B images, L patch tokens, T tokens, P prefix tokens, D width, n blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from timm.models.eva import Eva
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from typing_extensions import override

from massl_bench.core.model_settings import FeatureName
from massl_bench.models.networks.features import of_tokens


class LastBlocksFeatures(nn.Module):
    """The class tokens of a ViT's last blocks, one after the other, each after the final norm: [B, n D].

    Args:
        network: a ViT of timm with a class token; registers, where it has them, are not taken.
        num_blocks: n.
        mean_patch: whether the mean of the last block's patch tokens follows: [B, (n + 1) D].
    """

    def __init__(self, network: Any, *, num_blocks: int, mean_patch: bool) -> None:
        super().__init__()
        self._network, self._num_blocks, self._mean_patch = network, num_blocks, mean_patch

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Returns the features of normalised images [B, 3, H, W]."""
        blocks = self._network.forward_intermediates(
            images,
            indices=self._num_blocks,
            return_prefix_tokens=True,
            norm=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        tokens = [prefix_BPD[:, 0] for _, prefix_BPD in blocks]
        if self._mean_patch:
            patches_BLD = blocks[-1][0]
            tokens.append(patches_BLD.mean(1))
        return torch.cat(tokens, dim=1)


class EveryBlockFeatures(nn.Module):
    """The feature of every block, one after the other: each block's output in place of the last one's.

    Of a ViT it goes through the final norm and the network's own pooling, of a ResNet through the mean over the map.

    Args:
        network: one that `block_widths` knows.
        feature: what is made of a ViT's tokens; None for what the network itself makes of them.
    """

    def __init__(self, network: Any, feature: FeatureName | None) -> None:
        super().__init__()
        self._network, self._feature = network, feature

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Returns the features of normalised images [B, 3, H, W]."""
        if isinstance(self._network, ResNet):
            return torch.cat([self._network.global_pool(map_BDHW) for map_BDHW in self._maps(images)], dim=1)
        return torch.cat([self._of_tokens(tokens_BTD) for tokens_BTD in self._tokens(images)], dim=1)

    def _maps(self, images: Tensor) -> Iterator[Tensor]:
        network = self._network
        map_BDHW = network.maxpool(network.act1(network.bn1(network.conv1(images))))
        for block in residual_blocks(network):
            map_BDHW = block(map_BDHW)
            yield map_BDHW

    def _tokens(self, images: Tensor) -> Iterator[Tensor]:
        blocks = self._network.forward_intermediates(
            images, return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
        )
        for block in blocks:  # without prefix tokens timm returns the patch tokens alone
            yield block if isinstance(block, Tensor) else torch.cat([block[1], block[0]], dim=1)

    def _of_tokens(self, tokens_BTD: Tensor) -> Tensor:
        if self._feature is not None:
            return of_tokens(tokens_BTD, self._feature, self._network.num_prefix_tokens)
        own_BD: Tensor = self._network.forward_head(tokens_BTD)
        return own_BD


def block_widths(network: Any, feature: FeatureName | None, embed_dim: int) -> tuple[int, ...]:
    """Returns the width of each block's feature; none where blocks are not told apart, or the feature is of several.

    Args:
        network: of timm, without a classifier.
        feature: what is made of its tokens; None for what it returns by itself.
        embed_dim: width of that feature.
    """
    if isinstance(network, ResNet) and feature is None:
        return tuple(_width(block) for block in residual_blocks(network))
    if isinstance(network, VisionTransformer | Eva) and feature not in ("last4", "token-before-norm"):
        return (embed_dim,) * len(network.blocks)
    return ()


def residual_blocks(network: Any) -> list[Any]:
    """Returns the blocks of a ResNet of timm, in their order."""
    return [block for stage in (network.layer1, network.layer2, network.layer3, network.layer4) for block in stage]


def _width(block: Any) -> int:
    return int(getattr(block, "conv3", block.conv2).out_channels)
