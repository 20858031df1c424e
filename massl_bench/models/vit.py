"""The ViT of MaSSL (and DINO): timm's, with the published interpolation of position embeddings."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from massl_bench.core.errors import RequestError, one_line


class _WholePatches(PatchEmbed):
    """A patch embedding that leaves out what exceeds the last whole patch, at the right and below.

    So does the strided convolution of the official code; timm refuses such sizes.
    """

    @override
    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.patch_size
        height, width = x.shape[-2] // rows * rows, x.shape[-1] // columns * columns
        patches: Tensor = super().forward(x[..., :height, :width])  # type: ignore[no-untyped-call]
        return patches


class MasslVisionTransformer(VisionTransformer):
    """A ViT whose feature is the class token after the final norm, at any input size of at least one patch.

    Args:
        img_size: side of the images that the position embeddings were learnt for, in pixels.
        patch_size: side of a patch, in pixels.
        embed_dim: width D.
        depth: number of blocks.
        num_heads: number of attention heads.
        mlp_ratio: hidden width of the MLPs over D.
        qkv_bias: whether queries, keys and values have a bias.
        drop_path_rate: largest rate of stochastic depth in training; nothing in evaluation.
    """

    def __init__(  # noqa: PLR0913  # the dimensions of an architecture
        self,
        *,
        img_size: int,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            drop_path_rate=drop_path_rate,
            num_classes=0,
            global_pool="token",
            dynamic_img_size=True,
            embed_layer=_WholePatches,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )

    def _pos_embed(self, patches: Tensor) -> Tensor:
        """Returns the tokens [B, 1 + h·w, D] of a patch map [B, h, w, D]: class token first, positions added."""
        batch, rows, columns, width = patches.shape
        assert self.cls_token is not None
        tokens = torch.cat([self.cls_token.expand(batch, -1, -1), patches.reshape(batch, rows * columns, width)], dim=1)
        positions: Tensor = self.pos_drop(tokens + self._positions(rows, columns))
        return positions

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Returns the position embeddings [1, 1 + rows·columns, D] of a patch grid.

        As the official code computes them: bicubic, without antialiasing, with the scale factor (side + 0.1) / grid
        given to the interpolation (the 0.1 guards against rounding, and shifts the sampling points: features at other
        sizes than the trained one depend on it). Only where an image has the trained grid, but two different sides
        (225 × 230 at patch 16), the official code resamples too, and this leaves the embeddings as they were learnt.
        """
        grid_rows, grid_columns = self.patch_embed.grid_size
        positions = self.pos_embed
        assert positions is not None
        if (rows, columns) == (grid_rows, grid_columns):
            return positions
        width = positions.shape[-1]
        learnt = positions[:, 1:].reshape(1, grid_rows, grid_columns, width).permute(0, 3, 1, 2)
        resized = functional.interpolate(
            learnt, scale_factor=((rows + 0.1) / grid_rows, (columns + 0.1) / grid_columns), mode="bicubic"
        )
        return torch.cat([positions[:, :1], resized.permute(0, 2, 3, 1).reshape(1, rows * columns, width)], dim=1)


def like_plain_vit(
    model: VisionTransformer, *, img_size: int, patch_size: int, drop_path_rate: float = 0.0
) -> MasslVisionTransformer:
    """Makes a ViT with the dimensions of timm's plain one, for other sizes of images and patches.

    Args:
        model: a plain ViT (see `is_plain`); its tensors need no values.
        img_size: as of `MasslVisionTransformer`.
        patch_size: likewise.
        drop_path_rate: likewise.
    """
    block: Any = model.blocks[0]
    return MasslVisionTransformer(
        img_size=img_size,
        patch_size=patch_size,
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=block.mlp.fc1.out_features / model.embed_dim,
        qkv_bias=block.attn.qkv.bias is not None,
        drop_path_rate=drop_path_rate,
    )


def is_plain(model: VisionTransformer) -> bool:
    """Returns whether a ViT of timm has the tensors of the published one, and no others.

    LayerScale, registers, another pooling than the class token, a norm before the blocks: each shows in a tensor.
    """
    block = model.blocks[0]
    if not (type(block) is Block and isinstance(block.attn, Attention) and type(block.mlp) is Mlp):
        return False
    (side, _), (patch, _) = model.patch_embed.img_size, model.patch_embed.patch_size
    with torch.device("meta"):
        plain = like_plain_vit(model, img_size=side, patch_size=patch)
    shapes, expected = (
        {name: tensor.shape for name, tensor in network.state_dict().items()} for network in (model, plain)
    )
    return shapes == expected


def special_vit(arch: str, *, img_size: int, patch_size: int, drop_path_rate: float = 0.0) -> Any:
    """Makes a ViT of timm that is not plain, as timm makes it, for other sizes of images and patches.

    Its feature is timm's for this architecture, and its position embeddings are resampled as timm does.

    Raises:
        RequestError: It cannot be made so.
    """
    import timm

    try:
        model: Any = timm.create_model(
            arch,
            num_classes=0,
            img_size=img_size,
            patch_size=patch_size,
            dynamic_img_size=True,
            drop_path_rate=drop_path_rate,
        )
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise RequestError(
            f"{arch}: timm does not make it for images of {img_size} and patches of {patch_size} pixels: "
            f"{one_line(error)}"
        ) from None
    return model


def num_token_blocks(network: nn.Module) -> int | None:
    """Returns the number of blocks of a ViT whose feature is its class token; None for any other network."""
    if isinstance(network, VisionTransformer) and network.global_pool == "token" and network.cls_token is not None:
        return len(network.blocks)
    return None
