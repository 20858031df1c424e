"""MSN: an encoder and its average over training, the target, under keys of their own; the head lies inside."""

from __future__ import annotations

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.build import vit
from massl_bench.models.content import Content
from massl_bench.models.evaluations import bilinear_crop
from massl_bench.models.renaming import in_timm_names

_TARGET = "target_encoder"


def _matches(content: Content) -> bool:
    return any("cls_token" in content.names(key) for key in (_TARGET, "encoder")) and content.has("prototypes")


def _network(found: Found) -> Network:
    return vit(
        in_timm_names(found),
        heads={(384, 12): 6, (768, 12): 12, (1024, 24): 16},
        heads_origin="of MSN's own sizes",
        positions="size",
        feature="token-before-norm",
        feature_origin="as its authors evaluate: they set the final norm aside",
        evaluation=bilinear_crop,
        evaluation_origin="as MSN's evaluation",
        notes=("its authors' linear and logistic probes normalise this feature first; MSN in transformers norms it",),
    )


ADAPTER = Adapter(
    name="msn",
    summary="MSN (encoder and target encoder)",
    read_in="facebookresearch/msn 4388dc1 src/msn_train.py, src/deit.py, linear_eval.py, logistic_eval.py",
    rank=Rank.KEYS,
    matches=_matches,
    weights=(
        Weights(name=_TARGET, key=_TARGET, what="the target encoder"),
        Weights(name="encoder", key="encoder", what="the encoder that is trained"),
    ),
    inside={"fc.": "projector"},
    others={"prototypes": "prototypes"},
    network=_network,
    licence="CC-BY-NC-4.0",
)
