"""timm's ViT with the published interpolation of position embeddings, and MaSSL's (and DINO's) among them."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from massl_bench.core.errors import RequestError, one_line

PositionRule = Literal["offset", "size", "antialias", "fixed"]
"""How position embeddings that were learnt for one grid of patches serve another one, as the authors' code does it:
`offset`: bicubic, no antialiasing, the scale factor (side + 0.1) / grid given to the interpolation (DINO, iBOT, MaSSL,
DINOv2, Franca); `size`: bicubic to the size, no antialiasing (MAE, Hugging Face's ViTs); `antialias`: bicubic to the
size, antialiased (DINOv2 with registers, open_clip; timm); `fixed`: not at all, another grid is refused (MoCo v3,
OpenAI's CLIP)."""


class WholePatches(PatchEmbed):
    """A patch embedding that leaves out what exceeds the last whole patch, at the right and below.

    So does the strided convolution of the official code; timm refuses such sizes.

    In training and on a GPU it is one matrix product over the patches' pixels, with the convolution's own weights:
    cuDNN has poor kernels for strides as wide as patches. Elsewhere it stays the convolution, to keep its last digits.
    """

    @override
    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.patch_size
        height, width = x.shape[-2] // rows, x.shape[-1] // columns
        x = x[..., : height * rows, : width * columns]
        if not (self.training or x.is_cuda) or self.flatten:
            patches: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return patches
        pixels = x.reshape(*x.shape[:2], height, rows, width, columns).permute(0, 2, 4, 1, 3, 5).flatten(3)
        normalised: Tensor = self.norm(functional.linear(pixels, self.proj.weight.flatten(1), self.proj.bias))
        return normalised


class OfficialVisionTransformer(VisionTransformer):
    """timm's ViT at any input size of at least one patch, with the authors' resampling of position embeddings.

    Attributes:
        position_rule: which one.
    """

    position_rule: PositionRule = "offset"

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Returns the tokens [B, P + h·w, D] of a patch map [B, h, w, D]: P prefix tokens first, positions added."""
        batch, rows, columns, width = x.shape
        prefix = [token.expand(batch, -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        tokens = x.reshape(batch, rows * columns, width)
        if self.pos_embed is None:
            return torch.cat([*prefix, tokens], dim=1)
        positions = self._positions(rows, columns)
        if self.no_embed_class:
            tokens = torch.cat([*prefix, tokens + positions], dim=1)
        else:
            tokens = torch.cat([*prefix, tokens], dim=1) + positions
        dropped: Tensor = self.pos_drop(tokens)
        return dropped

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Returns the position embeddings [1, P + rows·columns, D] of a patch grid; P is 0 where prefixes have none.

        Under `offset`, the 0.1 guards against rounding, and shifts the sampling points: features at other sizes than
        the trained one depend on it. Only where an image has the trained grid, but two different sides (225 × 230 at
        patch 16), the official code resamples too, and this leaves the embeddings as they were learnt.
        """
        assert self.pos_embed is not None
        count = 0 if self.no_embed_class else self.num_prefix_tokens
        return resampled(self.pos_embed, count, self.patch_embed.grid_size, (rows, columns), self.position_rule)


def resampled(
    positions: Tensor, num_prefix: int, grid: tuple[int, int], size: tuple[int, int], rule: PositionRule
) -> Tensor:
    """Returns position embeddings [1, P + rows·columns, D] for a patch grid of another size.

    Args:
        positions: learnt, [1, P + N, D].
        num_prefix: P, of the tokens before the patches.
        grid: rows and columns that they were learnt for.
        size: rows and columns.
        rule: how they are resampled.
    """
    if size == tuple(grid):
        return positions
    width = positions.shape[-1]
    learnt = positions[:, num_prefix:].reshape(1, *grid, width).permute(0, 3, 1, 2)
    resized = _resized(learnt, *size, rule)
    return torch.cat([positions[:, :num_prefix], resized.permute(0, 2, 3, 1).reshape(1, -1, width)], dim=1)


def _resized(learnt_1DHW: Tensor, rows: int, columns: int, rule: PositionRule) -> Tensor:
    grid_rows, grid_columns = learnt_1DHW.shape[-2:]
    match rule:
        case "offset":
            factors = (rows + 0.1) / grid_rows, (columns + 0.1) / grid_columns
            return functional.interpolate(learnt_1DHW, scale_factor=factors, mode="bicubic")
        case "size" | "antialias":
            antialias = rule == "antialias"
            return functional.interpolate(learnt_1DHW, (rows, columns), mode="bicubic", antialias=antialias)
        case "fixed":
            raise RequestError(
                f"the network takes {grid_rows} × {grid_columns} patches alone, these images have {rows} × {columns}; "
                "its authors never resample its position embeddings"
            )


def with_positions(model: VisionTransformer, rule: PositionRule) -> OfficialVisionTransformer:
    """Makes a ViT that timm built (with `dynamic_img_size`) resample its position embeddings by the authors' rule.

    timm's constructors of named architectures take no class: the model's own is exchanged for its subclass, which has
    the same tensors and the same parts.
    """
    assert model.dynamic_img_size, "timm builds it for any size, or for one"
    model.__class__ = OfficialVisionTransformer
    official: Any = model
    official.position_rule = rule
    return official  # type: ignore[no-any-return]


class MasslVisionTransformer(OfficialVisionTransformer):
    """The ViT of MaSSL and DINO: its feature is the class token after the final norm.

    Args:
        img_size: side of the images that the position embeddings were learnt for, in pixels.
        patch_size: side of a patch, in pixels.
        embed_dim: width D.
        depth: number of blocks.
        num_heads: number of attention heads.
        mlp_ratio: hidden width of the MLPs over D.
        qkv_bias: whether queries, keys and values have a bias.
        drop_path_rate: largest rate of stochastic depth in training; nothing in evaluation.
        position_rule: how position embeddings are resampled; MaSSL's and DINO's is `offset`.
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
        position_rule: PositionRule = "offset",
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
            embed_layer=WholePatches,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
        self.position_rule = position_rule


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
