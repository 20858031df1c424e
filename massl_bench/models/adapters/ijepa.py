"""I-JEPA: an encoder, its average over training (the target) and a predictor; no class token."""

from __future__ import annotations

from massl_bench.core.wording import asked
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.build import vit
from massl_bench.models.content import Content
from massl_bench.models.renaming import in_timm_names
from massl_bench.models.shapes import PUBLISHED_HEADS

_TARGET = "target_encoder"


def _matches(content: Content) -> bool:
    sets = [names for key in (_TARGET, "encoder") if (names := content.names(key))]
    trained = content.has(_TARGET) or content.has("predictor")
    return trained and bool(sets) and all("pos_embed" in names and "cls_token" not in names for names in sets)


def _network(found: Found) -> Network:
    return vit(
        in_timm_names(found),
        heads={**PUBLISHED_HEADS, (384, 12): 6},
        heads_origin="of I-JEPA's own sizes",
        positions="fixed",
        feature="avg",
        feature_origin="as its paper evaluates the target encoder (appendix A.1)",
        evaluation_origin="the usual evaluation: its authors publish none",
        notes=(
            "timm, transformers and others load the encoder that is trained, not the target: "
            f"{asked('checkpoint_key', 'encoder')}",
        ),
    )


ADAPTER = Adapter(
    name="ijepa",
    summary="I-JEPA (encoder, predictor, target encoder)",
    read_in="facebookresearch/ijepa 52c1ae9 src/train.py, src/helper.py, src/models/vision_transformer.py, issue 51",
    rank=Rank.KEYS,
    matches=_matches,
    weights=(
        Weights(name=_TARGET, key=_TARGET, what="the target encoder"),
        Weights(name="encoder", key="encoder", what="the encoder that is trained"),
    ),
    others={"predictor": "predictor"},
    network=_network,
    licence="CC-BY-NC-4.0",
)
