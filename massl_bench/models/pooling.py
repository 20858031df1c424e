"""Features of a ViT other than its last class token. Shapes: B images, L tokens, D width, n blocks."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from typing_extensions import override

from massl_bench.models.encoder import Encoder
from massl_bench.models.model import ModelCard, last_blocks


class LastBlocks(nn.Module):
    """Tokens of the last blocks of a ViT, as DINO's linear evaluation takes them, each block after the final norm.

    Args:
        network: a ViT with a class token.
        num_blocks: n, from whose class tokens the feature is joined.
        mean_patch: whether the mean of the last block's patch tokens follows.
    """

    def __init__(self, network: VisionTransformer, *, num_blocks: int, mean_patch: bool) -> None:
        super().__init__()
        self._network, self._num_blocks, self._mean_patch = network, num_blocks, mean_patch

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Returns [B, n · D], or [B, (n + 1) · D] with the mean patch token, of normalised images [B, 3, H, W]."""
        blocks: list[tuple[Tensor, Tensor]] = self._network.forward_intermediates(
            images,
            indices=self._num_blocks,
            return_prefix_tokens=True,
            norm=True,
            output_fmt="NLC",
            intermediates_only=True,
        )  # type: ignore[assignment]  # with these options: (patch tokens [B, L, D], prefix tokens) of each block
        tokens = [prefix_BLD[:, 0] for _, prefix_BLD in blocks]
        if self._mean_patch:
            tokens.append(blocks[-1][0].mean(1))
        return torch.cat(tokens, dim=1)


def with_last_blocks(encoder: Encoder, card: ModelCard) -> Encoder:
    """Returns the encoder of the same network whose feature is that of `card`, which `pooled_card` made."""
    network = encoder.network
    assert isinstance(network, VisionTransformer)
    num_blocks, mean_patch = last_blocks(encoder.card)
    pooled = LastBlocks(network, num_blocks=num_blocks, mean_patch=mean_patch)
    return Encoder(pooled, card, files=encoder.files, reproducible=encoder.reproducible)
