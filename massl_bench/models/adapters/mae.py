"""MAE: pre-trained with its decoder, the encoder alone, or fine-tuned; under `model`, in timm's names.

The encoder alone has the names of any ViT under `model`; what tells it apart are its position embeddings, which are
MAE's fixed sines and cosines and not learnt: zeros for the class token, and for the first patch sines of 0 and
cosines of 0. A fine-tuned one norms the pooled tokens, and has no norm before.
"""

from __future__ import annotations

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.build import vit
from massl_bench.models.content import Content
from massl_bench.models.renaming import in_timm_names
from massl_bench.models.shapes import PUBLISHED_HEADS, has_fixed_positions

_KEY = "model"
_DECODER = ("decoder_embed.", "decoder_blocks.", "decoder_norm.", "decoder_pred.")


def _matches(content: Content) -> bool:
    names = content.names(_KEY)
    marks = {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "cls_token"}
    if not marks <= names or "blocks.0.attn.q_bias" in names:  # which EVA's have
        return False
    if any(content.any_under(prefix, _KEY) for prefix in _DECODER):
        return True
    if "norm.weight" not in names:
        return "fc_norm.weight" in names
    plain = "pos_embed" in names and "blocks.0.ls1.gamma" not in names
    return plain and has_fixed_positions(content.state(_KEY), str(content.file))


def _network(found: Found) -> Network:
    tuned = "fc_norm.weight" in found.tensors
    return vit(
        in_timm_names(found),
        heads=PUBLISHED_HEADS,
        heads_origin="of MAE's own sizes: its ViT-H has 16",
        positions="size",
        feature_origin="mean of the patch tokens, normed after: as it was fine-tuned"
        if tuned
        else "as its authors' linear evaluation",
        evaluation_origin="as MAE's evaluation",
        notes=(
            "fine-tuned: these weights have seen labels"
            if tuned
            else "its authors' linear probe puts a batch norm without parameters before the classifier",
        ),
    )


ADAPTER = Adapter(
    name="mae",
    summary="MAE (pre-trained with or without decoder, fine-tuned)",
    read_in="facebookresearch/mae efb2a80 models_mae.py, models_vit.py, main_linprobe.py, util/pos_embed.py",
    rank=Rank.NAMES,
    matches=_matches,
    weights=(Weights(name=_KEY, key=_KEY, what="the encoder"),),
    inside={
        "mask_token": "mask token",
        "decoder_pos_embed": "decoder",
        **dict.fromkeys(_DECODER, "decoder"),
        "head.": "classifier",
    },
    network=_network,
    licence="CC-BY-NC-4.0",
)
