"""Features of a ViT's last blocks. Shapes: B images, L patch tokens, P prefix tokens, D width, n blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override


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
