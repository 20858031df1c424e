"""The ViT on images of any size, against the published forward pass in plain torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from massl_bench.models.networks.vit import MasslVisionTransformer

PATCH, GRID, WIDTH, DEPTH, HEADS = 8, 4, 32, 2, 2


@pytest.fixture
def network() -> MasslVisionTransformer:
    torch.manual_seed(0)
    network = MasslVisionTransformer(
        img_size=GRID * PATCH, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval().requires_grad_(False)


def published(tensors: dict[str, Tensor], images_BCHW: Tensor) -> Tensor:
    """The class tokens [B, D] of DINO's ViT: a strided convolution, resampled positions, blocks, the last norm."""

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (WIDTH,), tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps=1e-6)

    weight, bias = tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"]
    patches = functional.conv2d(images_BCHW, weight, bias, stride=PATCH)
    learnt = tensors["pos_embed"][:, 1:].reshape(1, GRID, GRID, WIDTH).permute(0, 3, 1, 2)
    factors = tuple((side // PATCH + 0.1) / GRID for side in images_BCHW.shape[-2:])
    positions = functional.interpolate(learnt, scale_factor=factors, mode="bicubic")
    assert positions.shape[-2:] == patches.shape[-2:]
    tokens = (patches + positions).flatten(2).transpose(1, 2)
    first = (tensors["cls_token"] + tensors["pos_embed"][:, :1]).expand(len(tokens), -1, -1)
    x = torch.cat([first, tokens], dim=1)
    for block in (f"blocks.{number}" for number in range(DEPTH)):
        qkv = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).unflatten(-1, (3, HEADS, WIDTH // HEADS))
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)
        attention = (queries @ keys.transpose(-2, -1) * (WIDTH // HEADS) ** -0.5).softmax(dim=-1)
        x = x + linear(f"{block}.attn.proj", (attention @ values).transpose(1, 2).flatten(2))
        x = x + linear(f"{block}.mlp.fc2", functional.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x))))
    return norm("norm", x)[:, 0]


@pytest.mark.parametrize("size", [(64, 64), (40, 72), (75, 45), (33, 95), (9, 8)])
def test_any_size_is_the_published_pass(size: tuple[int, int], network: MasslVisionTransformer) -> None:
    images = torch.randn(3, 3, *size)
    torch.testing.assert_close(network(images), published(network.state_dict(), images), rtol=1e-4, atol=1e-4)


def test_what_exceeds_the_last_whole_patch_is_left_out(network: MasslVisionTransformer) -> None:
    images = torch.randn(2, 3, 47, 60)
    assert (network(images) == network(images[..., :40, :56])).all()
    with pytest.raises(RuntimeError, match="Kernel size"):
        network(images[..., :7, :])
