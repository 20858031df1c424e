"""OpenSelfSup, its heir mmselfsup, and Triplet, made with it: raw files name the backbone twice; extracted, once."""

from __future__ import annotations

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.content import Content
from massl_bench.models.evaluations import bilinear_crop
from massl_bench.models.resnets import resnet

_KEY = "state_dict"
_TWINS = {
    "online_net": "the online network, which the backbone is",
    "encoder_q": "the query encoder, which the backbone is",
    "target_net": "the target network",
    "encoder_k": "the key encoder",
    "base_encoder": "the base encoder, which the backbone is",
    "momentum_encoder": "the momentum encoder",
}
_PARTS = ("0", "module.0")
"""Each is a backbone (0) and a neck (1); mmselfsup has the momentum ones inside an average (`module`)."""


def _matches(content: Content) -> bool:
    if content.has(_KEY, "author"):  # extracted by the library's tool
        return content.any_under("layer1.", _KEY)
    paired = any(content.any_under(f"{name}.{part}.layer1.", _KEY) for name in _TWINS for part in _PARTS)
    return paired or (content.any_under("backbone.layer1.", _KEY) and content.has("meta"))


def _weights(content: Content) -> tuple[Weights, ...]:
    if content.has("author"):
        return (Weights(name=_KEY, key=_KEY),)
    twins = [
        Weights(name=name, key=_KEY, prefix=f"{name}.{part}.", what=what)
        for name, what in _TWINS.items()
        for part in _PARTS
        if content.any_under(f"{name}.{part}.", _KEY)
    ]
    return (Weights(name="backbone", key=_KEY, prefix="backbone."), *twins)


def _network(found: Found) -> Network:
    return resnet(found, evaluation=bilinear_crop, evaluation_origin="as OpenSelfSup's linear evaluation")


ADAPTER = Adapter(
    name="openselfsup",
    summary="OpenSelfSup, mmselfsup, Triplet (backbone, and the network pairs that it is a part of)",
    read_in="open-mmlab/mmselfsup 5e67129 openselfsup/models/{byol,moco}.py, 8d476cb tools; "
    "1e16016, 0c88e8d mmselfsup/models/algorithms/{byol,moco,mocov3}.py; open-mmlab/mmengine averaged_model.py; "
    "wanggrun/triplet c1bbaa9",
    rank=Rank.KEYS,
    matches=_matches,
    weights=_weights,
    inside={"fc.": "classifier"},
    beside={
        **{f"{name}.{part}.": "projector" for name in _TWINS for part in ("1", "module.1")},
        **{f"{name}.steps": "counter of an average" for name in _TWINS},
        "neck.": "projector",
        "head.": "predictor, head or classifier",
        "queue": "queue",
        "queue_ptr": "queue",
        "memory_bank.": "memory",
        "data_preprocessor.": "mean and deviation of images",
    },
    network=_network,
)
