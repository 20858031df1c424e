"""The features that DINO's linear evaluation takes of a ViT, against the blocks' own outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from massl_bench.core.settings import LastBlocks
from massl_bench.models import ModelOptions, open_model
from massl_bench.models.encoder import Encoder
from massl_bench.models.networks.tokens import num_token_blocks
from massl_bench.models.networks.vit import MasslVisionTransformer
from massl_bench.models.open import Model
from massl_bench.models.pixels import pixels_card, pixels_encoder
from massl_bench.specs.registry import Registry

POOLING = LastBlocks(kind="last-blocks", num_blocks=4, wide=768)


def block_outputs(network: MasslVisionTransformer, images: Tensor) -> list[Tensor]:
    """The tokens after each block, after the final norm."""
    outputs: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, out: outputs.append(out)) for block in network.blocks]
    network(images)
    for hook in hooks:
        hook.remove()
    return [network.norm(out) for out in outputs]


def tiny_vit(width: int, depth: int) -> Model:
    torch.manual_seed(0)
    network = MasslVisionTransformer(img_size=32, patch_size=16, embed_dim=width, depth=depth, num_heads=width // 64)
    changes = {
        "embed_dim": width,
        "num_blocks": num_token_blocks(network),
        "pooling": "class token after the final norm",
    }
    encoder = Encoder(network, pixels_card().model_copy(update=changes))
    return Model(card=encoder.card, build=lambda: encoder)


@pytest.mark.parametrize(("depth", "count"), [(6, 4), (3, 3)])
def test_narrow_vits_give_the_class_tokens_of_the_last_four_blocks(depth: int, count: int) -> None:
    model = tiny_vit(128, depth)
    pooled = model.build().pooled(POOLING)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = block_outputs(model.build().network, images)  # type: ignore[arg-type]
    found = pooled(images)
    torch.testing.assert_close(found, torch.cat([each[:, 0] for each in tokens[-count:]], dim=1))
    assert pooled.card.embed_dim == found.shape[1] == count * 128
    assert pooled.card.pooling == f"class tokens of the last {count} blocks, after the final norm"
    own = model.build()(images)
    torch.testing.assert_close(found[:, -128:], own)


def test_wide_vits_give_the_class_token_and_the_mean_patch_token() -> None:
    model = tiny_vit(768, 2)
    pooled = model.build().pooled(POOLING)
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        last = block_outputs(model.build().network, images)[-1]  # type: ignore[arg-type]
    found = pooled(images)
    torch.testing.assert_close(found, torch.cat([last[:, 0], last[:, 1:].mean(1)], dim=1))
    assert pooled.card.embed_dim == 2 * 768
    assert pooled.card.pooling == "class token and mean of the patch tokens, after the final norm"


def test_other_networks_keep_their_own_feature(tmp_path: Path) -> None:
    pixels = pixels_encoder()
    assert pixels.pooled(POOLING) is pixels
    resnet = open_model("random:resnet10t", Registry(), ModelOptions(cache_dir=tmp_path, download=False))
    assert resnet.card.num_blocks is None
    assert resnet.card.pooled(POOLING) == resnet.card
    assert pixels_card().pooled(None) == pixels_card()


def test_a_vit_is_known_from_its_card_alone(tmp_path: Path, golden: Path) -> None:
    options = ModelOptions(cache_dir=tmp_path, download=False)
    vit = open_model(str(golden / "official_format_checkpoint.pth"), Registry(), options)
    again = open_model(str(golden / "official_format_checkpoint.pth"), Registry(), options)
    assert again.card.num_blocks == vit.card.num_blocks == len(vit.build().network.blocks)  # type: ignore[arg-type]
    timm = open_model("random:vit_tiny_patch16_224", Registry(), options)
    assert timm.card.num_blocks == 12
