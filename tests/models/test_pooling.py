"""The features that DINO's linear evaluation takes of a ViT, against the blocks' own outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.eva import Eva
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer
from torch import Tensor, nn

from massl_bench.core.errors import RequestError
from massl_bench.core.model_settings import ModelSettings
from massl_bench.core.settings import BlocksAndMean, EveryBlock, LastBlocks
from massl_bench.models import ModelOptions, open_model
from massl_bench.models.encoder import Encoder
from massl_bench.models.networks.blocks import block_widths
from massl_bench.models.networks.resnet import SmallImageResNet
from massl_bench.models.networks.tokens import num_token_blocks
from massl_bench.models.networks.vit import MasslVisionTransformer
from massl_bench.models.open import Model
from massl_bench.models.pixels import pixels_card, pixels_encoder
from massl_bench.specs.registry import Registry

POOLING = LastBlocks(kind="last-blocks", num_blocks=4, wide=768)
EVERY_BLOCK = EveryBlock(kind="every-block")


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


SMALL_VIT: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 2,
    "num_classes": 0,
}

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "token": lambda: VisionTransformer(**SMALL_VIT),
    "registers": lambda: VisionTransformer(**SMALL_VIT, reg_tokens=3),
    "norm before": lambda: VisionTransformer(**SMALL_VIT, pre_norm=True),
    "parallel": lambda: VisionTransformer(**SMALL_VIT, block_fn=ParallelThingsBlock),
    "mean": lambda: VisionTransformer(**SMALL_VIT, global_pool="avg"),
    "mean without token": lambda: VisionTransformer(**SMALL_VIT, global_pool="avg", class_token=False),
    "rotary": lambda: Eva(**SMALL_VIT, use_rot_pos_emb=True, global_pool="token"),
    "resnet": lambda: ResNet(BasicBlock, (1, 2, 1, 1), channels=(8, 16, 24, 32), num_classes=0),  # type: ignore[arg-type]
    "bottleneck": lambda: ResNet(Bottleneck, (1, 1, 2, 1), channels=(4, 4, 8, 8), num_classes=0),  # type: ignore[arg-type]
    "small images": lambda: SmallImageResNet(widths=(8, 16, 16, 24), depths=(1, 1, 1, 2)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_block_gives_its_own_feature(name: str) -> None:
    torch.manual_seed(0)
    network: Any = NETWORKS[name]()
    own_dim = network.num_features
    widths = block_widths(network, None, own_dim)
    card = pixels_card().model_copy(update={"embed_dim": own_dim, "blocks": widths, "pooling": "its own"})
    encoder, images, outputs = Encoder(network, card), torch.randn(2, 3, 32, 32), []
    convolutional = isinstance(network, ResNet)
    stages = [network.get_submodule(f"layer{number}") for number in range(1, 5)] if convolutional else [network.blocks]
    blocks = [each for stage in stages for each in stage]
    hooks = [each.register_forward_hook(lambda _, __, out: outputs.append(out)) for each in blocks]
    own = encoder(images)
    for hook in hooks:
        hook.remove()
    pooled = encoder.pooled(EVERY_BLOCK, 32)
    found = pooled(images)
    assert [part.width for part in card.parts(EVERY_BLOCK)] == list(widths)
    assert [part.name for part in card.parts(EVERY_BLOCK)] == [f"b{number}" for number in range(1, len(blocks) + 1)]
    assert sum(widths) == pooled.card.embed_dim == found.shape[1]
    torch.testing.assert_close(found[:, -widths[-1] :], own)
    with torch.no_grad():
        for each, out in zip(found.split(list(widths), dim=1), outputs, strict=True):
            if convolutional:
                torch.testing.assert_close(each, out.mean((2, 3)))
            elif network.global_pool == "token":
                torch.testing.assert_close(each, network.norm(out)[:, 0])
            else:
                means = network.norm(out)[:, network.num_prefix_tokens :].mean(1)
                torch.testing.assert_close(each, network.fc_norm(means))
    assert pooled.card.pooling == f"its own, of each of {len(blocks)} blocks"


@pytest.mark.parametrize("name", ["token", "registers", "rotary"])
def test_class_tokens_and_mean_patch_of_the_last_blocks(name: str) -> None:
    pooling = BlocksAndMean(kind="blocks-and-mean", num_blocks=2)
    network: Any = NETWORKS[name]()
    card = pixels_card().model_copy(update={"embed_dim": 32, "blocks": (32,) * 3, "token_dim": 32})
    encoder, images = Encoder(network, card), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        _, second, third = block_outputs(network, images)
    expected = [second[:, 0], third[:, 0], third[:, network.num_prefix_tokens :].mean(1)]
    pooled = encoder.pooled(pooling)
    torch.testing.assert_close(pooled(images), torch.cat(expected, dim=1))
    assert [part.name for part in card.parts(pooling)] == ["b2", "b3", "mean patch"]
    assert pooled.card.embed_dim == 96
    assert pixels_card().pooled(pooling) == pixels_card()
    assert pixels_card().parts(pooling) == ()


def test_every_block_of_a_feature_that_was_asked_for(tmp_path: Path, golden: Path) -> None:
    for name, there in (("avg", True), ("token+avg", True), ("token-before-norm", False), ("last4", False)):
        settings = ModelSettings(pooling=name)  # type: ignore[arg-type]
        options = ModelOptions(cache_dir=tmp_path, download=False, settings=settings)
        model = open_model(str(golden / "official_format_checkpoint.pth"), Registry(), options)
        assert bool(model.card.blocks) is there
        if there:
            images = torch.randn(2, 3, 224, 224)
            own = model.build()(images)
            torch.testing.assert_close(model.build().pooled(EVERY_BLOCK)(images)[:, -own.shape[1] :], own)


@pytest.mark.parametrize("reference", ["pixels", "random:convnext_atto"])
def test_networks_whose_blocks_are_not_told_apart_are_refused(reference: str, tmp_path: Path) -> None:
    model = open_model(reference, Registry(), ModelOptions(cache_dir=tmp_path, download=False))
    with pytest.raises(RequestError, match="has no blocks that are told apart"):
        model.build().pooled(EVERY_BLOCK)
