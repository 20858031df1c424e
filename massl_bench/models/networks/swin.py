"""timm's Swin at the sizes at which it is its authors'."""

from __future__ import annotations

from typing import Any

from timm.models.swin_transformer import SwinTransformer
from torch import Tensor
from typing_extensions import override

from massl_bench.core.errors import RequestError


class WholeWindowsSwin(SwinTransformer):
    """A Swin at the size that its windows were laid out for, and at whole multiples of it.

    At other sizes windows are padded: its authors' code pads before it shifts, timm's after.
    """

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Returns the features [B, D] of normalised images [B, 3, S, S]."""
        embed: Any = self.patch_embed
        side, (height, width) = embed.img_size[0], x.shape[-2:]
        if height != width or width % side:
            raise RequestError(
                f"the network takes images of {side} × {side} pixels and whole multiples of that, these have "
                f"{height} × {width}: its windows would have to be padded"
            )
        features: Tensor = super().forward(x)
        return features
