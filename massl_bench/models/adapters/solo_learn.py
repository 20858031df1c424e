"""solo-learn: a ResNet with an online classifier, and the heads and the momentum twin of its method."""

from __future__ import annotations

from massl_bench.core.settings import Preprocessing, own_size
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.content import Content
from massl_bench.models.evaluations import bilinear_crop
from massl_bench.models.resnets import resnet

_KEY = "state_dict"
_STEM = "resnet_small_images_padding2"
_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
_HEADS = ("projector.", "predictor.", "head.", "prototypes.", "momentum_backbone.", "momentum_encoder.")


def _prefix(content: Content) -> str | None:
    """Returns the prefix of the backbone: `encoder` in files of 2021."""
    own = content.has("pytorch-lightning_version") and content.any_under("classifier.", _KEY)
    if not own or not any(content.any_under(head, _KEY) for head in _HEADS):
        return None
    names = ("backbone", "encoder")
    return next((name for name in names if content.any_under(f"{name}.layer1.", _KEY)), None)


def _weights(content: Content) -> tuple[Weights, ...]:
    name = _prefix(content) or "backbone"
    momentum = f"momentum_{name}"
    return (
        Weights(name=name, key=_KEY, prefix=f"{name}.", what="the online network"),
        Weights(name=momentum, key=_KEY, prefix=f"{momentum}.", what="the momentum network"),
    )


def _cifar(side: int) -> Preprocessing:
    return own_size(side, interpolation="bilinear", mean=_CIFAR_MEAN, std=_CIFAR_STD)


def _network(found: Found) -> Network:
    if found.shape("conv1.weight")[2:] != (3, 3):
        return resnet(found, evaluation=bilinear_crop, evaluation_origin="as solo-learn's evaluation on ImageNet")
    assumed = () if found.settings.arch is not None else (f"its stem is taken as solo-learn's for CIFAR ({_STEM})",)
    return resnet(
        found, evaluation=_cifar, evaluation_origin="as solo-learn's evaluation on CIFAR", stem=_STEM, notes=assumed
    )


ADAPTER = Adapter(
    name="solo_learn",
    summary="solo-learn (online and momentum ResNet, heads, online classifier)",
    read_in="vturrisi/solo-learn 2aa1e64 solo/data/classification_dataloader.py; 9187ea3 solo/methods, solo/backbones",
    rank=Rank.NAMES,
    matches=lambda content: _prefix(content) is not None,
    weights=_weights,
    inside={"fc.": "classifier"},
    beside={
        "classifier.": "classifier",
        "momentum_classifier.": "classifier",
        "projector.": "projector",
        "momentum_projector.": "projector",
        "head.": "projector",
        "momentum_head.": "projector",
        "predictor.": "predictor",
        "momentum_predictor.": "predictor",
        "prototypes.": "prototypes",
        "dino_loss_func.": "loss",
        **dict.fromkeys(("queue", "queue_y", "queue_ptr", "queue_proj", "queue_index"), "queue"),
    },
    network=_network,
)
