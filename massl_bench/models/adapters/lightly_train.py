"""lightly-train: Lightning's checkpoints with a wrapped model; the one that its `export` writes is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from massl_bench.core.errors import RequestError
from massl_bench.core.settings import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from massl_bench.core.strict import first_problem
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.adapters.dinov2 import ADAPTER as DINOV2
from massl_bench.models.build import vit
from massl_bench.models.content import Content
from massl_bench.models.renaming import in_timm_names
from massl_bench.models.resnets import resnet

_KEY, _OWN = "state_dict", "lightly_train"
_MODELS = (
    ("teacher", "teacher_embedding_model_wrapper.", "the teacher"),  # DINOv2
    ("teacher", "teacher_embedding_model.", "the teacher"),  # DINO
    ("model", "embedding_model.", "the model"),  # SimCLR and the like
    ("student", "student_embedding_model.", "the student"),  # distillation keeps no teacher in its files
    ("student", "student_embedding_model_wrapper.", "the student"),
)
"""Where methods keep the wrapped model: the one that `export` writes first."""

_PARTS = ("", "wrapped_model.", "model_wrapper.")
_INNER = ("_model.", "_features.")
_MARKS = ("conv1.weight", "patch_embed.proj.weight")
_QUEUE = "teacher_queue"


def _weights(content: Content) -> tuple[Weights, ...]:
    names = content.names(_KEY)
    sets = []
    for name, model, what in _MODELS:
        prefixes = (f"{model}{part}{inner}" for part in _PARTS for inner in _INNER)
        prefix = next((each for each in prefixes if any(f"{each}{mark}" in names for mark in _MARKS)), None)
        if prefix is not None:
            sets.append(Weights(name=name, key=_KEY, prefix=prefix, what=what))
    # Distillation has no teacher in its files, and nothing of it but a queue; where there is more, it must be there.
    taught = any(name.startswith("teacher_") and name != _QUEUE for name in names)
    if taught and all(each.name != "teacher" for each in sets):
        sets.insert(
            0, Weights(name="teacher", key=_KEY, prefix="teacher_embedding_model.wrapped_model.", what="the teacher")
        )
    return tuple(sets) or (Weights(name="model", key=_KEY, prefix=_MODELS[2][1], what="the model"),)


def _fed(found: Found, side: int) -> tuple[Preprocessing, str]:
    """Returns how `lightly-train embed` feeds it: squashed, under the mean and deviation that the file holds."""
    stored: Any = found.content.value(f"{_OWN}/normalize_args")
    told = {name: stored[name] for name in ("mean", "std") if name in stored} if isinstance(stored, Mapping) else {}
    usual = Preprocessing(
        resize=side, resize_mode="squash", crop=side, interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    try:
        fed = Preprocessing.model_validate({**usual.model_dump(), **told})
    except ValidationError as error:
        raise RequestError(f"{found.where}: {_OWN}: normalize_args: {first_problem(error)}") from None
    whose = "the mean in its file" if told else "ImageNet's mean"
    return fed, f"as lightly-train's embed command, {whose}"


def _network(found: Found) -> Network:
    prefix = found.weights.prefix
    if "conv1.weight" in found.tensors:
        network = resnet(found)
    elif f"{prefix}mask_token" in found.content.names(_KEY):  # DINOv2's own network, not timm's
        network = DINOV2.network(found)
    else:
        network = vit(in_timm_names(found))
    fed, origin = _fed(found, network.preprocessing.crop or network.preprocessing.resize)
    network = replace(network, preprocessing=fed, preprocessing_origin=origin)
    if network.feature is None:
        return network
    return replace(network, feature="avg", origins={**network.origins, "pooling": "as lightly-train's embed command"})


ADAPTER = Adapter(
    name="lightly_train",
    summary="lightly-train (the wrapped model of its methods)",
    read_in="lightly-ai/lightly-train dc4cab5 _checkpoint.py, 08d07ee _commands/embed.py, 08eed52 _commands/export.py, "
    "_models/{embedding_model,torchvision/resnet,timm/timm,dinov2_vit/dinov2_vit}.py, _methods: 0520258 dino.py, "
    "0037c13 dinov2.py, 9e042ba simclr.py, 004229f distillation.py",
    rank=Rank.KEYS_AND_NAMES,
    matches=lambda content: content.has(_OWN, _KEY),
    weights=_weights,
    inside={"mask_token": "mask token", "fc.": "classifier", "head.": "classifier"},
    beside={
        **{f"*.{part}{inner}": "the model a second time" for part in _PARTS for inner in _INNER},
        "*.embed_head.": "embedding layer",
        **{
            f"{whose}{head}.": "projector"
            for whose in ("", "teacher_", "student_")
            for head in ("projection_head", "dino_head", "ibot_head")
        },
        **dict.fromkeys(("criterion.", "dino_loss.", "ibot_loss.", "koleo_loss."), "loss"),
        _QUEUE: "queue",
    },
    network=_network,
)
