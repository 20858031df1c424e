"""DINOv3's ViT: rotary positions, storage tokens, LayerScale; timm's class Eva with the published periods."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from timm.models.eva import Eva
from torch import Tensor, nn

from massl_bench.core.settings import Preprocessing
from massl_bench.models.adapter import Found, Network, Rename
from massl_bench.models.networks.vit import WholePatches
from massl_bench.models.renaming import put
from massl_bench.models.shapes import Heads, heads_of, vit_shape

_PERIODS = "rope.periods"


def rotary_vit(  # noqa: PLR0913  # what a layout says of its ViT
    found: Found,
    *,
    heads: Heads,
    heads_origin: str,
    rename: Rename,
    feature_origin: str,
    preprocessing: Preprocessing,
    preprocessing_origin: str,
    eps: float = 1e-5,
    temperature: float = 100.0,
    notes: tuple[str, ...] = (),
) -> Network:
    """Returns DINOv3's ViT of the tensors' shapes; its feature is the class token, as its authors take it.

    Args:
        found: in the names of timm's Eva, as `renaming.in_timm_names` gives it.
        heads: as of `build.vit`.
        heads_origin: likewise.
        rename: makes the file's tensors those of timm's Eva.
        feature_origin: who evaluates the class token.
        preprocessing: of the evaluation.
        preprocessing_origin: where it was read.
        eps: of the norms.
        temperature: of the rotary periods, where the file has none.
        notes: what a reader of the numbers should know.

    Raises:
        RequestError: The shapes are no such ViT's, or nobody knows the number of heads.
    """
    shape = vit_shape(found)
    number, origin = heads_of(found, shape, heads, heads_origin)
    options: dict[str, Any] = {
        "img_size": preprocessing.crop or preprocessing.resize,
        "patch_size": shape.patch,
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": number,
        "mlp_ratio": shape.hidden / shape.width,
        "qkv_bias": "blocks.0.attn.q_bias" in found.tensors,
        "swiglu_mlp": "blocks.0.mlp.fc1_g.weight" in found.tensors,
        "init_values": 1e-5 if "blocks.0.gamma_1" in found.tensors else None,
        "num_reg_tokens": shape.registers,
        "rope_temperature": temperature,
    }
    return Network(
        architecture=f"dinov3_vit_width{shape.width}_depth{shape.depth}_heads{number}_patch{shape.patch}",
        build=partial(_build, options, eps, _PERIODS in found.tensors),
        feature="token",
        own_feature="token",
        preprocessing=preprocessing,
        preprocessing_origin=preprocessing_origin,
        rename=rename,
        origins={"heads": origin, "pooling": feature_origin},
        notes=notes,
    )


def _build(options: Mapping[str, Any], eps: float, stored_periods: bool) -> nn.Module:
    network: Any = Eva(
        num_classes=0,
        global_pool="token",
        dynamic_img_size=True,
        norm_layer=partial(nn.LayerNorm, eps=eps),
        swiglu_align_to=1,  # gate and value apart, as wide as they are
        use_fc_norm=False,
        use_abs_pos_emb=False,
        use_rot_pos_emb=True,
        rope_type="dinov3",
        rope_rotate_half=True,
        **options,
    )
    network.patch_embed.__class__ = WholePatches
    if stored_periods:
        # timm computes them anew; the published ones are rounded, and features depend on that.
        network.rope.register_buffer("periods", network.rope.periods, persistent=True)
    return network  # type: ignore[no-any-return]


def without_key_bias(tensors: Mapping[str, Tensor], network: Any) -> dict[str, Tensor]:
    """Returns tensors with the biases of queries and values apart, as Eva has them; a stored mask is applied first.

    Args:
        tensors: with `….attn.qkv.bias` and, in DINOv3's files, `….attn.qkv.bias_mask`, which zeroes that of the keys.
        network: None where the tensors have no values.

    Raises:
        ValueError: Keys have a bias, for which this network has no place; or the parts are there beside the whole.
    """
    split = dict(tensors)
    for name in [name for name in tensors if name.endswith(".attn.qkv.bias")]:
        bias, attention = split.pop(name), name.removesuffix(".qkv.bias")
        mask = split.pop(f"{name}_mask", None)
        queries, keys, values = (bias if mask is None else bias * mask).chunk(3)
        if network is not None and bool(keys.any()):
            raise ValueError(f"{name}: its keys have a bias that no mask takes away")
        put(split, f"{attention}.q_bias", queries)
        put(split, f"{attention}.v_bias", values)
    return split
