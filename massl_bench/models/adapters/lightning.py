"""PyTorch Lightning: the one plain network of a module, under the names that modules usually give to it."""

from __future__ import annotations

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.adapters.timm_vit import ADAPTER as PLAIN_VIT
from massl_bench.models.content import Content
from massl_bench.models.resnets import resnet

_KEY = "state_dict"
_PREFIXES = ("encoder.", "model.", "net.", "network.", "model.backbone.", "model.encoder.", "encoder.backbone.")
_MARKS = ("layer1.0.conv1.weight", "blocks.0.attn.qkv.weight")
"""`backbone.` and no prefix at all are what the plain adapters read."""


def _prefixes(content: Content) -> list[str]:
    if not content.has("pytorch-lightning_version"):
        return []
    names = content.names(_KEY)
    return [prefix for prefix in _PREFIXES if any(f"{prefix}{mark}" in names for mark in _MARKS)]


def _weights(content: Content) -> tuple[Weights, ...]:
    # Two networks of a module are nobody's to choose from: the second one is named as unexpected.
    prefix = (_prefixes(content) or [""])[0]
    return (Weights(name=prefix.rstrip(".") or _KEY, key=_KEY, prefix=prefix),)


def _network(found: Found) -> Network:
    return resnet(found) if _MARKS[0] in found.tensors else PLAIN_VIT.network(found)


ADAPTER = Adapter(
    name="lightning",
    summary="a module of PyTorch Lightning with one plain network",
    read_in="Lightning-AI/pytorch-lightning 2.6.6 (dump_checkpoint)",
    rank=Rank.PLAIN,
    matches=lambda content: bool(_prefixes(content)),
    weights=_weights,
    inside={"fc.": "classifier", "head.": "classifier"},
    beside={
        "classifier.": "classifier",
        "online_classifier.": "classifier",
        "projector.": "projector",
        "projection_head.": "projector",
        "predictor.": "predictor",
        "criterion.": "loss",
    },
    network=_network,
)
