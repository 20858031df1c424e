"""BYOL as two reimplementations train it: yaox12's BYOL-PyTorch (children by number), lucidrains's byol-pytorch."""

from __future__ import annotations

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.adapters.timm_vit import ADAPTER as PLAIN_VIT
from massl_bench.models.content import Content
from massl_bench.models.evaluations import bilinear_crop
from massl_bench.models.renaming import numbered_to_timm, renamed_shapes
from massl_bench.models.resnets import resnet

_KEYS = ("model", "", "state_dict")
_PAIRS = (("online_network.encoder.", "target_network.encoder."), ("online_encoder.net.", "target_encoder.net."))


def _place(content: Content) -> tuple[str, tuple[str, str]] | None:
    places = ((key, pair) for key in _KEYS for pair in _PAIRS)
    return next((p for p in places if any(content.any_under(prefix, p[0]) for prefix in p[1])), None)


def _weights(content: Content) -> tuple[Weights, ...]:
    key, (online, target) = _place(content) or ("", _PAIRS[1])
    return (
        Weights(name="online", key=key, prefix=online, what="the online network"),
        Weights(name="target", key=key, prefix=target, what="the target network"),
    )


def _network(found: Found) -> Network:
    if "4.0.conv1.weight" in found.tensors:
        named = renamed_shapes(found, numbered_to_timm)
        return resnet(
            named,
            evaluation=bilinear_crop,
            evaluation_origin="as its trainer's linear evaluation",
            rename=numbered_to_timm,
        )
    if "patch_embed.proj.weight" in found.tensors:
        return PLAIN_VIT.network(found)
    return resnet(found)


ADAPTER = Adapter(
    name="byol",
    summary="BYOL (BYOL-PyTorch, byol-pytorch: online and target network)",
    read_in="yaox12/BYOL-PyTorch edefc01 model/byol_model.py, model/basic_modules.py, trainer/byol_trainer.py; "
    "lucidrains/byol-pytorch 0095aa4 byol_pytorch/byol_pytorch.py",
    rank=Rank.NAMES,
    matches=lambda content: _place(content) is not None,
    weights=_weights,
    inside={"fc.": "classifier", "head.": "classifier"},
    beside={
        "net.": "the network, which the online one is",
        **dict.fromkeys(("online_network.projetion.", "target_network.projetion."), "projector"),
        **dict.fromkeys(("online_encoder.projector.", "target_encoder.projector."), "projector"),
        **dict.fromkeys(("predictor.", "online_predictor."), "predictor"),
    },
    network=_network,
)
