"""Files that this package wrote: exports, which say what they are, and checkpoints with their configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from massl_bench.core.errors import RequestError
from massl_bench.core.settings import own_size
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.build import timm_network, vit
from massl_bench.models.content import Content
from massl_bench.models.networks.resnet import STEMS
from massl_bench.models.networks.vit import PositionRule, is_plain
from massl_bench.models.resnets import resnet
from massl_bench.models.shapes import heads_of_64, named_on_meta
from massl_bench.models.weights.metadata import KEY, WeightsMetadata, parse_metadata

_STEM = next(iter(STEMS))


def _is_training(content: Content) -> bool:
    return content.has("format", "step", "teacher", "student", "config", "data")


def _matches(content: Content) -> bool:
    return KEY in content.metadata or _is_training(content) or isinstance(content.value(KEY), str)


def _weights(content: Content) -> tuple[Weights, ...]:
    if KEY in content.metadata:
        return (Weights(name="state dict"),)
    return (
        Weights(name="teacher", key="teacher", prefix="backbone.", what="the teacher"),
        Weights(name="student", key="student", prefix="backbone.", what="the student"),
    )


def own_metadata(content: Content) -> WeightsMetadata | None:
    """Returns what a file says of itself; None for a training's checkpoint, whose configuration says it."""
    text = content.metadata.get(KEY)
    if text is None and isinstance(content.value(KEY), str):
        text = content.value(KEY)
    return parse_metadata(text, content.file) if text is not None else None


def _network(found: Found) -> Network:
    own = own_metadata(found.content)
    if own is not None:
        network = _described(found, own.arch, own.num_heads, own.positions or "offset")
        origin = "the file's own metadata"
        network = replace(network, preprocessing=own.preprocessing, licence=own.licence, feature=own.feature)
    else:
        config = found.content.value("config")
        network = _configured(found, config)
        origin = "the configuration of its training, in the file"
    return replace(network, preprocessing_origin=origin, origins={**network.origins, "size": ""})


def _described(found: Found, arch: str | None, num_heads: int | None, positions: PositionRule = "offset") -> Network:
    """Returns the network that a file says it is, or that the user says in its place."""
    if arch is not None and found.settings.arch in (None, arch):
        found = replace(found, settings=found.settings.model_copy(update={"arch": None}))
        model: Any = named_on_meta(arch, found.where)
        blocks = getattr(model, "blocks", None)
        if blocks is None:
            return timm_network(found, arch, origin="the file says so")
        if is_plain(model):
            return _vit(found, int(blocks[0].attn.num_heads), positions)
        patch = found.shape("patch_embed.proj.weight")[-1]
        side = _side(found, model, patch)
        return timm_network(
            found, arch, dynamic_img_size=True, patch_size=patch, img_size=side, origin="the file says so"
        )
    if "patch_embed.proj.weight" in found.tensors:
        return _vit(found, num_heads, positions)
    return resnet(found, stem=_STEM)


def _side(found: Found, model: Any, patch: int) -> int:
    """Returns the side of the images that a special ViT's position embeddings are for, in pixels."""
    positions = found.shape("pos_embed")
    if not positions:
        return int(model.patch_embed.img_size[0])
    not_patches = 0 if model.no_embed_class else model.num_prefix_tokens
    return int(patch * round(max(1, positions[1] - not_patches) ** 0.5))


def _vit(found: Found, num_heads: int | None, positions: PositionRule) -> Network:
    # This package's trainer makes every ViT with heads of 64 dimensions that it names no other number of.
    return vit(
        found,
        heads=(lambda _: num_heads) if num_heads else heads_of_64,
        heads_origin="the file says so" if num_heads else "64 dimensions each, as it was trained",
        positions=positions,
    )


def _configured(found: Found, config: Any) -> Network:
    """Returns the network of a training's configuration, fed as its export would be."""
    try:
        backbone, views = config["backbone"], config["views"]
        side = int(views["global_1"]["size"])
        preprocessing = own_size(side, mean=tuple(views["mean"]), std=tuple(views["std"]))
        arch = backbone["arch"]
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(
            f"{found.where}: its configuration lacks {error}: it was written by another version"
        ) from None
    own = isinstance(backbone, Mapping) and arch in ("vit", "resnet")
    network = _described(found, None if own else str(arch), backbone.get("num_heads"))
    return replace(network, preprocessing=preprocessing)


ADAPTER = Adapter(
    name="massl_bench",
    summary="files of massl-bench (exports and checkpoints of its trainer)",
    read_in="this package: models/weights/metadata.py, models/weights/export.py, pretrain/loop/checkpoint.py",
    rank=Rank.DECLARED,
    matches=_matches,
    weights=_weights,
    beside={"head.": "projector"},
    others={"method": "state of the method", "memory": "memory", "memory_bank": "memory", "optimiser": "optimizer"},
    network=_network,
)
