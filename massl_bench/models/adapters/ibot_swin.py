"""iBOT's Swin transformers: backbone files, in the names of Swin's authors."""

from __future__ import annotations

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.content import Content
from massl_bench.models.swin import SWIN_MARKS, SWIN_TABLES, swin

_KEY = "state_dict"


def network(found: Found) -> Network:
    """Returns iBOT's Swin: its norms have an eps of 1e-6, timm's and its authors' 1e-5."""
    return swin(
        found,
        eps=1e-6,
        evaluation_origin="as iBOT's k-NN evaluation",
        feature_origin="as iBOT's k-NN: Swin has no class token",
    )


def _matches(content: Content) -> bool:
    names = content.names(_KEY)
    # Swin's own files keep the masks of shifted windows too, under another key.
    return names >= SWIN_MARKS and not any(name.endswith(".attn_mask") for name in names)


ADAPTER = Adapter(
    name="ibot_swin",
    summary="iBOT's Swin transformers (backbone files)",
    read_in="bytedance/ibot c24f870 models/swin_transformer.py, evaluation/eval_knn.py",
    rank=Rank.NAMES,
    matches=_matches,
    weights=(Weights(name=_KEY, key=_KEY),),
    inside={**SWIN_TABLES, "masked_embed": "mask token", "head.": "classifier"},
    network=network,
    licence="Apache-2.0",
)
