"""EVA and EVA-02: pre-trained by masked prediction, or fine-tuned; under `model`, or `module` as DeepSpeed saves.

Queries and values have biases apart, and keys none. EVA-02 rotates queries and keys, and keeps the table of cosines:
its columns are the dimensions of a head, and its second row tells the grid that other grids are stretched to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from massl_bench.core.errors import RequestError
from massl_bench.core.settings import Preprocessing, own_size
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Tensors, Weights
from massl_bench.models.content import Content, load
from massl_bench.models.evaluations import CLIP_MEAN, CLIP_STD
from massl_bench.models.networks.eva import OfficialEva
from massl_bench.models.networks.vit import WholePatches
from massl_bench.models.renaming import in_timm_names, substituted
from massl_bench.models.shapes import Heads, VitShape, heads_of, vit_shape

_KEYS = ("model", "module")
_TABLE = "rope.freqs_cos"
_WHOLE_FROM = 384
"""Images of this side and more are not cropped."""
_NAMES = [
    (r"norm\.(weight|bias)", r"fc_norm.\1"),
    (r"(.*)\.mlp\.ffn_ln\.(.*)", r"\1.mlp.norm.\2"),
    (r"(.*)\.attn\.inner_attn_ln\.(.*)", r"\1.attn.norm.\2"),
    (r"(.*)\.mlp\.w12\.(.*)", r"\1.mlp.fc1.\2"),
    (r"(.*)\.mlp\.w1\.(.*)", r"\1.mlp.fc1_g.\2"),
    (r"(.*)\.mlp\.w2\.(.*)", r"\1.mlp.fc1_x.\2"),
    (r"(.*)\.mlp\.w3\.(.*)", r"\1.mlp.fc2.\2"),
]
_APART = [(r"(.*)\.attn\.([qv])_bias", r"\1.attn.\2_proj.bias")]


def _key(content: Content) -> str | None:
    return next(
        (key for key in _KEYS if {"blocks.0.attn.q_bias", "cls_token", "pos_embed"} <= content.names(key)), None
    )


def _weights(content: Content) -> tuple[Weights, ...]:
    key = _key(content) or _KEYS[0]
    return (Weights(name=key, key=key, what="the network"),)


def _rename(tensors: Tensors, _network: Any) -> Mapping[str, Tensor]:
    apart = "blocks.0.attn.q_proj.weight" in tensors
    return substituted(tensors, [*_NAMES, *(_APART if apart else [])])


def _network(found: Found) -> Network:
    tuned = "fc_norm.weight" in found.tensors
    named = in_timm_names(found, _rename)
    shape = vit_shape(named)
    rotary = _rotary(found)
    known: Heads = {(1408, 40): 16} if rotary is None else {(shape.width, shape.depth): shape.width // rotary[0]}
    told = "of EVA-01's own size" if rotary is None else "the columns of the rotary table in the file"
    number, origin = heads_of(named, shape, known, told)
    if rotary is not None and number * rotary[0] != shape.width:
        raise RequestError(
            f"{found.where}: {number} heads of a width of {shape.width}; its rotary table is for heads of {rotary[0]}"
        )
    side = shape.img_size or 224
    return Network(
        architecture=f"eva_width{shape.width}_depth{shape.depth}_heads{number}_patch{shape.patch}",
        build=partial(_build, _options(named, shape, number), rotary[1] if rotary is not None else None),
        preprocessing=_evaluation(side),
        preprocessing_origin="as EVA's evaluation",
        rename=_rename,
        origins={"heads": origin, "pooling": "mean of the patch tokens, normed after" + ("" if tuned else ", as timm")},
        notes=(
            "fine-tuned: these weights have seen labels"
            if tuned
            else "its authors evaluate no frozen features: their own classifiers, too, start from the normed mean",
        ),
    )


def _rotary(found: Found) -> tuple[int, int] | None:
    """Returns (dimensions of a head, side of the grid that rotations count in); None for a network without them."""
    state = found.content.state(found.weights.key)
    if _TABLE not in state:
        if "blocks.0.mlp.fc1.weight" not in found.tensors:
            raise RequestError(f"{found.where}: a checkpoint of EVA-02 without {_TABLE}, which tells its rotations")
        return None
    cosines, sines = (load({name: state[name]}, found.where)[name] for name in (_TABLE, "rope.freqs_sin"))
    if cosines.ndim != 2 or cosines.shape != sines.shape or not math.isqrt(len(cosines)) ** 2 == len(cosines) > 1:
        raise RequestError(f"{found.where}: {_TABLE} is no table of a square grid: {list(cosines.shape)}")
    half = cosines.shape[1] // 2  # rows turn the first half of a head's dimensions, columns the second
    step = math.atan2(float(sines[1, half]), float(cosines[1, half]))
    return cosines.shape[1], round(step * math.isqrt(len(cosines)))


def _options(found: Found, shape: VitShape, num_heads: int) -> dict[str, Any]:
    names = found.tensors
    gated = "blocks.0.mlp.fc1_g.weight" in names
    packed = not gated and found.shape("blocks.0.mlp.fc1.weight")[:1] != found.shape("blocks.0.mlp.fc2.weight")[1:]
    hidden = shape.hidden // 2 if packed else shape.hidden
    return {
        "img_size": shape.img_size,
        "patch_size": shape.patch,
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": num_heads,
        "mlp_ratio": (hidden + 0.5) / shape.width,  # timm rounds down
        "qkv_fused": "blocks.0.attn.qkv.weight" in names,
        "swiglu_mlp": gated or packed,
        "swiglu_align_to": 1 if gated else 0,  # gate and value apart, as wide as they are
        "scale_mlp": "blocks.0.mlp.norm.weight" in names,
        "scale_attn_inner": "blocks.0.attn.norm.weight" in names,
    }


def _build(options: Mapping[str, Any], rotary_grid: int | None) -> nn.Module:
    network: Any = OfficialEva(
        num_classes=0,
        global_pool="avg",
        dynamic_img_size=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rot_pos_emb=rotary_grid is not None,
        ref_feat_shape=rotary_grid,
        **options,
    )
    network.patch_embed.__class__ = WholePatches
    return network  # type: ignore[no-any-return]


def _evaluation(side: int) -> Preprocessing:
    preprocessing = own_size(side, mean=CLIP_MEAN, std=CLIP_STD)
    return preprocessing.model_copy(update={"resize": side}) if side >= _WHOLE_FROM else preprocessing


ADAPTER = Adapter(
    name="eva",
    summary="EVA and EVA-02 (pre-trained, fine-tuned)",
    read_in="baaivision/EVA EVA-02/asuka modeling_pretrain.py, modeling_finetune.py, rope.py, datasets.py (006ca79), "
    "EVA-01/eva modeling_finetune.py (aeb2f9a)",
    rank=Rank.KEYS_AND_NAMES,
    matches=lambda content: _key(content) is not None,
    weights=_weights,
    inside={
        "mask_token": "mask token",
        "lm_head.": "head of the masked prediction",
        "head.": "classifier",
        "rope.": "rotary table, which is computed",
        "blocks.*.attn.rope.": "rotary table, which is computed",
    },
    network=_network,
    licence="MIT",
)
