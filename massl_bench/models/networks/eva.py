"""timm's Eva with position embeddings that are resampled as its authors do it. Shapes: B images, D width."""

from __future__ import annotations

from typing import Any

from timm.models.eva import Eva
from torch import Tensor, cat
from typing_extensions import override

from massl_bench.models.networks.vit import resampled


class OfficialEva(Eva):
    """EVA's and EVA-02's ViT with a class token, at any input size of at least one patch."""

    @override
    def _pos_embed(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns (tokens [B, 1 + h·w, D] with their positions added, rotations) of a patch map [B, h, w, D]."""
        assert self.cls_token is not None
        assert self.pos_embed is not None
        rope: Any = self.rope
        batch, rows, columns, width = x.shape
        tokens = cat([self.cls_token.expand(batch, -1, -1), x.reshape(batch, rows * columns, width)], dim=1)
        positions = resampled(self.pos_embed, 1, self.patch_embed.grid_size, (rows, columns), "size")
        rotations = rope.get_embed(shape=(rows, columns)) if rope is not None else None
        return tokens + positions, rotations
