"""Networks of common kinds from a file's shapes: what adapters call to say what a file's tensors are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import timm
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from massl_bench.core.model_settings import FeatureName
from massl_bench.core.settings import Preprocessing, own_size
from massl_bench.models.adapter import Found, Network, Rename
from massl_bench.models.networks.vit import (
    OfficialVisionTransformer,
    PositionRule,
    WholePatches,
    is_plain,
    with_positions,
)
from massl_bench.models.shapes import (
    PUBLISHED_HEADS,
    Heads,
    VitShape,
    heads_of,
    named_on_meta,
    on_meta,
    vit_shape,
)

UNKNOWN_EVALUATION = "the default: the file has no preprocessing of its own"


def vit(  # noqa: PLR0913  # what a layout says of its ViT
    found: Found,
    *,
    heads: Heads = PUBLISHED_HEADS,
    heads_origin: str = "published for these dimensions",
    positions: PositionRule = "offset",
    feature: FeatureName = "token",
    feature_origin: str = "",
    evaluation: Callable[[int], Preprocessing] = own_size,
    evaluation_origin: str = UNKNOWN_EVALUATION,
    evaluated_at: int | None = None,
    eps: float = 1e-6,
    act: Callable[..., nn.Module] = nn.GELU,
    rename: Rename | None = None,
    notes: tuple[str, ...] = (),
    **arguments: Any,
) -> Network:
    """Returns the ViT that the tensors are: timm's class, under the authors' resampling of position embeddings.

    Width, depth, patch, grid, MLP, biases, class token, registers, LayerScale and norms come from the shapes.

    Args:
        found: the file under timm's names, as `renaming.in_timm_names` gives it where its own differ.
        heads: number of heads by (width, depth[, patch]), or a rule.
        heads_origin: who says so, in words.
        positions: how position embeddings are resampled.
        feature: what the authors evaluate.
        feature_origin: in words; empty for nothing to say.
        evaluation: makes the preprocessing of a side in pixels.
        evaluation_origin: where it was read.
        evaluated_at: side of the authors' evaluation, in pixels, where that is not the one of the position embeddings;
            a network of smaller images keeps its own.
        eps: of the norms.
        act: activation of the MLPs.
        rename: makes the file's tensors those that `found` has.
        notes: what a reader of the numbers should know.
        arguments: of timm's VisionTransformer, in place of what the shapes say.

    Raises:
        RequestError: The shapes are no ViT's, or nobody knows the number of heads.
    """
    shape = vit_shape(found)
    if found.settings.arch is not None and not _is_common(found.settings.arch, found.where):
        return _special(found, shape, positions)
    number, origin = heads_of(found, shape, heads, heads_origin)
    native = shape.img_size if shape.img_size is not None else 224
    side = native if evaluated_at is None else min(native, evaluated_at)
    # timm's own norm after pooling stands where the file has one.
    pooling = "token" if shape.class_token and not shape.norm_after_pooling else "avg"
    options = {**_timm_arguments(shape, number, native, pooling), "act_layer": act, **arguments}
    plain_avg = pooling == "avg" and not shape.norm_after_pooling
    return Network(
        architecture=vit_name(shape, number),
        build=partial(_build_vit, options, eps, positions),
        feature=None if shape.norm_after_pooling else feature if shape.class_token else "avg",
        own_feature="token" if pooling == "token" else "avg" if plain_avg else None,
        preprocessing=evaluation(side),
        preprocessing_origin=evaluation_origin,
        rename=rename,
        origins={
            "heads": origin,
            "pooling": feature_origin,
            "size": f"position embeddings of {shape.grid} × {shape.grid} patches of {shape.patch}"
            if side == native and shape.grid is not None
            else "as its authors evaluate",
        },
        notes=notes,
    )


def _timm_arguments(shape: VitShape, num_heads: int, img_size: int, pooling: str) -> dict[str, Any]:
    """Returns the arguments of timm's VisionTransformer that the shapes say."""
    return {
        "img_size": img_size,
        "patch_size": shape.patch,
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": num_heads,
        "mlp_ratio": shape.hidden / shape.width,
        "qkv_bias": shape.qkv_bias,
        "class_token": shape.class_token,
        "reg_tokens": shape.registers,
        "no_embed_class": not shape.prefix_positions,
        "pos_embed": "learn" if shape.grid is not None else "none",
        "init_values": 1e-5 if shape.layer_scale else None,
        "pre_norm": shape.pre_norm,
        "fc_norm": shape.norm_after_pooling,
        "global_pool": pooling,
    }


def _build_vit(options: Mapping[str, Any], eps: float, positions: PositionRule) -> nn.Module:
    network = OfficialVisionTransformer(
        num_classes=0,
        dynamic_img_size=True,
        embed_layer=WholePatches,
        norm_layer=partial(nn.LayerNorm, eps=eps),
        **options,
    )
    network.position_rule = positions
    return network


def vit_name(shape: VitShape, heads: int) -> str:
    """Returns what a ViT is called: by timm's names of sizes where it has such, else by its dimensions."""
    sizes = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large", (1280, 32): "huge"}
    size = sizes.get((shape.width, shape.depth))
    if size is None:
        return f"vit_width{shape.width}_depth{shape.depth}_heads{heads}_patch{shape.patch}"
    usual = PUBLISHED_HEADS.get((shape.width, shape.depth), 6)
    return f"vit_{size}_patch{shape.patch}" if heads == usual else f"vit_{size}_heads{heads}_patch{shape.patch}"


def _is_common(arch: str, where: str) -> bool:
    """Returns whether a ViT of timm differs from the common one in dimensions alone."""
    model = named_on_meta(arch, where)
    # What is no ViT at all is refused where its dimensions are compared.
    return not isinstance(model, VisionTransformer) or is_plain(model)


def _special(found: Found, shape: VitShape, positions: PositionRule) -> Network:
    """Returns the ViT of timm that the user names, at the sizes of the file."""
    arch = found.settings.arch
    assert arch is not None
    heads_of(found, shape, {}, "")
    native = shape.img_size
    sizes: dict[str, Any] = {"img_size": native} if native is not None else {}
    return timm_network(found, arch, positions=positions, dynamic_img_size=True, **sizes)


def timm_network(  # noqa: PLR0913  # what a layout says of its network
    found: Found,
    arch: str,
    *,
    positions: PositionRule | None = None,
    feature: FeatureName | None = None,
    feature_origin: str = "",
    preprocessing: Preprocessing | None = None,
    preprocessing_origin: str = UNKNOWN_EVALUATION,
    rename: Rename | None = None,
    notes: tuple[str, ...] = (),
    licence: str | None = None,
    origin: str = "",
    **arguments: Any,
) -> Network:
    """Returns an architecture of timm by its name: the layout's, or the one that the user gave in its place.

    Args:
        found: the file.
        arch: timm's name, without a tag.
        positions: of a ViT, how position embeddings are resampled; None for timm's own way at one size.
        feature: what the authors evaluate; None for what timm's network returns.
        feature_origin: in words.
        preprocessing: of the authors' evaluation; None for the usual one at the network's size.
        preprocessing_origin: where it was read.
        rename: makes the file's tensors the network's; timm's `checkpoint_filter_fn` is such a function.
        notes: what a reader of the numbers should know.
        licence: where the file says it.
        origin: who says that it is this architecture.
        arguments: of timm's constructor.

    Raises:
        RequestError: timm has no such architecture.
    """
    told = found.settings.arch
    arch, origin = (arch, origin) if told is None else (told, "as given")
    if positions is not None:
        arguments = {"dynamic_img_size": True, **arguments}
    build = partial(build_timm_network, arch, positions, arguments)
    model = on_meta(build, arch, f"{found.where}: timm does not make {arch} so")
    side = network_side(model)
    return Network(
        architecture=arch,
        build=build,
        feature=feature,
        own_feature=own_feature(model),
        preprocessing=preprocessing if preprocessing is not None else own_size(side),
        preprocessing_origin=preprocessing_origin,
        rename=rename,
        origins={"architecture": origin, "pooling": feature_origin},
        notes=notes,
        licence=licence,
    )


def build_timm_network(arch: str, positions: PositionRule | None, arguments: Mapping[str, Any]) -> nn.Module:
    """Makes a network of timm without its classifier."""
    network: Any = timm.create_model(arch, **arguments)
    network.reset_classifier(0)
    return with_positions(network, positions) if positions is not None else network


def network_side(model: Any) -> int:
    """Returns the side of the images that a network of timm is made for, in pixels."""
    embed = getattr(model, "patch_embed", None)
    size = getattr(embed, "img_size", None)
    if size:
        return int(size[0])
    if isinstance(getattr(model, "conv1", None), nn.Conv2d) and model.conv1.kernel_size == (3, 3):
        return 32
    config = getattr(model, "pretrained_cfg", None) or {}
    return int(config.get("input_size", (3, 224, 224))[-1])


def own_feature(model: Any) -> FeatureName | None:
    """Returns which of the named features a network of timm returns by itself; None for another."""
    if isinstance(model, VisionTransformer | Eva):
        if isinstance(model.norm, nn.Identity):  # the norm comes after pooling
            return None
        return {"token": "token", "avg": "avg"}.get(model.global_pool)  # type: ignore[return-value]
    pool = getattr(model, "global_pool", None)
    return "token" if pool == "token" else "avg" if pool is not None else None
