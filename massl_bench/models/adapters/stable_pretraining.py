"""stable-pretraining: a module of Lightning with its callbacks' probes, and the student and teacher of its methods."""

from __future__ import annotations

from dataclasses import replace

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.adapters.timm_vit import ADAPTER as PLAIN_VIT
from massl_bench.models.content import Content
from massl_bench.models.resnets import resnet

_KEY = "state_dict"
_TEACHER, _STUDENT, _ENCODER = "backbone.teacher.", "backbone.student.", "encoder.vit."
_PROBES = ("callbacks_modules.", "_callbacks_modules.", "callbacks_metrics.", "_callbacks_metrics.")
_MARKS = ("layer1.0.conv1.weight", "blocks.0.attn.qkv.weight")


def _matches(content: Content) -> bool:
    names = content.names(_KEY)
    paired = "backbone.ema_coefficient" in names
    probed = any(content.any_under(probe, _KEY) for probe in _PROBES)
    alone = any(f"backbone.{mark}" in names for mark in _MARKS)
    return content.has("pytorch-lightning_version") and (paired or (probed and alone) or _is_masked(content))


def _is_masked(content: Content) -> bool:
    """Returns whether it is MAE's encoder and decoder; the encoder's patch embedding has a second name."""
    return {f"{_ENCODER}patch_embed.proj.weight", "encoder.patch_embed.proj.weight"} <= content.names(_KEY)


def _weights(content: Content) -> tuple[Weights, ...]:
    if _is_masked(content):
        return (Weights(name="encoder", key=_KEY, prefix=_ENCODER, what="the encoder"),)
    if not any(content.any_under(prefix, _KEY) for prefix in (_TEACHER, _STUDENT)):
        return (Weights(name="backbone", key=_KEY, prefix="backbone."),)
    return (
        Weights(name="teacher", key=_KEY, prefix=_TEACHER, what="the teacher"),
        Weights(name="student", key=_KEY, prefix=_STUDENT, what="the student"),
    )


def _network(found: Found) -> Network:
    network = resnet(found) if _MARKS[0] in found.tensors else PLAIN_VIT.network(found)
    if found.weights.prefix == _ENCODER:
        network = replace(network, feature="avg", origins={**network.origins, "pooling": "as its benchmark of MAE"})
    note = "stable-pretraining's examples each have a transform of their own, and none is everybody's"
    return replace(network, notes=(*network.notes, note))


ADAPTER = Adapter(
    name="stable_pretraining",
    summary="stable-pretraining (backbone, its student and teacher, or MAE's encoder; probes)",
    read_in="galilai-group/stable-pretraining 6bd8214 methods/{dino,byol,simclr}.py, 993ef50 backbone/utils.py "
    "(TeacherStudentWrapper), module.py; e4c2582 methods/mae.py, 16e9fe3 backbone/vit.py (MaskedEncoder), "
    "0ce31cb benchmarks/imagenet10/mae-vit-base.py",
    rank=Rank.KEYS_AND_NAMES,
    matches=_matches,
    weights=_weights,
    inside={"fc.": "classifier", "head.": "classifier"},
    beside={
        **dict.fromkeys(_PROBES, "probes and metrics of callbacks"),
        "encoder.patch_embed.": "the encoder's patch embedding once more",
        "decoder.": "decoder",
        "projector.": "projector",
        "predictor.": "predictor",
        **{f"{loss}_loss.": "loss" for loss in ("simclr", "byol", "dino", "ibot", "vicreg", "barlow", "swav", "nnclr")},
        "sigreg.": "loss",
        **{f"backbone.{name}": "schedule" for name in ("base_ema_coefficient", "final_ema_coefficient")},
        "backbone.ema_coefficient": "schedule",
    },
    network=_network,
)
