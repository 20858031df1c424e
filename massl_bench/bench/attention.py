"""What the class token of a ViT attends to, over its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from massl_bench.core.errors import CellError
from massl_bench.core.settings import Preprocessing
from massl_bench.datasets.images.preprocess import apply_preprocessing
from massl_bench.models.encoder import Encoder

_SCALE = 224
"""Side to which small images are enlarged, so that the map is seen."""


def attended(
    encoder: Encoder, images: Sequence[Image.Image], preprocessing: Preprocessing
) -> list[tuple[Image.Image, Image.Image]]:
    """Returns images as the network sees them, each with the same under its attention, bright where it is large.

    The attention is that of the class token in the last block, the mean over its heads (Caron et al., ICCV 2021).

    Raises:
        CellError: The network is no ViT of timm's with a class token, or its attention is of another kind.
    """
    network = encoder.backbone
    attention, prefix = _last_attention(network)
    pairs = []
    for image in images:
        pixels_3SS = apply_preprocessing(image, preprocessing)
        found: list[Tensor] = []
        hook = attention.register_forward_pre_hook(lambda _, inputs, found=found: found.append(inputs[0]))
        try:
            with torch.inference_mode():
                network(encoder.normalise(torch.from_numpy(pixels_3SS)[None].to(encoder.device)))
        finally:
            hook.remove()
        weight_P = _of_class_token(attention, found[-1])[prefix:].cpu().numpy()
        seen = Image.fromarray(np.ascontiguousarray(pixels_3SS.transpose(1, 2, 0)))
        pairs.append(_overlaid(seen, weight_P, _grid(network, seen, len(weight_P))))
    return pairs


def _last_attention(network: nn.Module) -> tuple[Any, int]:
    """Returns the attention of the last block, and the number of tokens before those of the patches."""
    blocks, token = getattr(network, "blocks", None), getattr(network, "cls_token", None)
    if not isinstance(blocks, nn.Module) or token is None:
        raise CellError("the network has no class token")
    attention = getattr(list(blocks.children())[-1], "attn", None)
    if not isinstance(getattr(attention, "qkv", None), nn.Linear) or hasattr(network, "rope"):
        raise CellError("the attention of the network is of a kind that is not read")
    return attention, int(getattr(network, "num_prefix_tokens", 1))


def _of_class_token(attention: Any, tokens_1TD: Tensor) -> Tensor:
    """Returns what the class token gives to each token, the mean over the heads, [T]."""
    with torch.inference_mode():
        count, heads = tokens_1TD.shape[1], attention.num_heads
        mixed = attention.qkv(tokens_1TD).reshape(1, count, 3, heads, -1).permute(2, 0, 3, 1, 4)
        query, key = attention.q_norm(mixed[0]), attention.k_norm(mixed[1])
        weight_1HT = ((query[:, :, :1] * attention.scale) @ key.transpose(-2, -1)).softmax(dim=-1)[:, :, 0]
        weight_T: Tensor = weight_1HT.mean(dim=(0, 1))
    return weight_T


def _grid(network: nn.Module, seen: Image.Image, count: int) -> tuple[int, int]:
    """Returns the rows and columns of the patches."""
    height, width = getattr(getattr(network, "patch_embed", None), "patch_size", (1, 1))
    grid = seen.height // height, seen.width // width
    if grid[0] * grid[1] != count:
        raise CellError(f"{count} patches of an image of {seen.width} × {seen.height} pixels: not a grid")
    return grid


def _overlaid(seen: Image.Image, weight_P: Any, grid: tuple[int, int]) -> tuple[Image.Image, Image.Image]:
    weight_hw = weight_P.reshape(grid) / max(float(weight_P.max()), 1e-12)
    size = (max(seen.width, _SCALE), max(seen.height, _SCALE))
    large = seen.resize(size, Image.Resampling.BICUBIC)
    light = Image.fromarray((255 * weight_hw).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return large, Image.composite(large, Image.new("RGB", size), light)
