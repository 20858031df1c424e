"""OBoW: the student as published (torchvision's names, a layer of words), or raw: in blocks, beside its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Tensors, Weights
from massl_bench.models.content import Content
from massl_bench.models.evaluations import bilinear_crop
from massl_bench.models.renaming import renamed_shapes, substituted
from massl_bench.models.resnets import resnet

_KEY, _STUDENT, _TEACHER = "network", "feature_extractor.", "feature_extractor_teacher."
_BLOCKS = "_feature_blocks."
_WORDS = 8192
_NAMES = [
    (r"_feature_blocks\.0\.Conv\.(.*)", r"conv1.\1"),
    (r"_feature_blocks\.0\.bn\.(.*)", r"bn1.\1"),
    (r"_feature_blocks\.([1-4])\.(.*)", r"layer\1.\2"),
]


def _rename(tensors: Tensors, _network: Any) -> Mapping[str, Tensor]:
    return substituted(tensors, _NAMES)


def _matches(content: Content) -> bool:
    names = content.names(_KEY)
    if any(content.any_under(f"{prefix}{_BLOCKS}", _KEY) for prefix in ("", _STUDENT, _TEACHER)):
        return True
    # A classifier of as many classes as OBoW has words is none.
    words = "fc.weight" in names and content.state(_KEY)["fc.weight"].shape[0] == _WORDS
    return words and content.any_under("layer1.", _KEY)


def _weights(content: Content) -> tuple[Weights, ...]:
    if not any(content.any_under(prefix, _KEY) for prefix in (_STUDENT, _TEACHER)):
        return (Weights(name=_KEY, key=_KEY, what="the student"),)
    return (
        Weights(name="feature_extractor", key=_KEY, prefix=_STUDENT, what="the student"),
        Weights(name="feature_extractor_teacher", key=_KEY, prefix=_TEACHER, what="the teacher"),
    )


def _network(found: Found) -> Network:
    named = renamed_shapes(found, _rename)
    return resnet(named, evaluation=bilinear_crop, evaluation_origin="as OBoW's linear evaluation", rename=_rename)


ADAPTER = Adapter(
    name="obow",
    summary="OBoW (student and teacher)",
    read_in="valeoai/obow 3758504 obow/builder_obow.py, obow/feature_extractor.py, main_linear_classification.py",
    rank=Rank.NAMES,
    matches=_matches,
    weights=_weights,
    inside={"fc.": "word layer"},
    beside={
        "bow_extractor.": "vocabulary of words",
        "bow_predictor.": "predictor",
        "linear_classifier.": "classifier",
        **dict.fromkeys(("_alpha", "_iteration"), "schedule"),
    },
    network=_network,
    licence="Apache-2.0",
)
