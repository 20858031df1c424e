"""lightly's examples and benchmarks: a ResNet, also as its children by number, or a ViT; heads and twins of methods."""

from __future__ import annotations

from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.build import vit
from massl_bench.models.content import Content
from massl_bench.models.evaluations import bilinear_crop
from massl_bench.models.renaming import in_timm_names, numbered_to_timm, renamed_shapes, torchvision_vit_to_timm
from massl_bench.models.resnets import resnet

_NUMBERED, _NAMED, _VIT = "4.0.conv1.weight", "layer1.0.conv1.weight", "vit.blocks.0.attn.qkv.weight"
_TORCHVISION = "vit.encoder.layers.encoder_layer_0.self_attention.in_proj_weight"
_TWINS = ("backbone_momentum", "student_backbone", "teacher_backbone", "key_backbone", "query_backbone")
_OWN = ("projection_head.layers.", "student_projection_head.layers.", "online_classifier.classification_head.")
"""Parts of lightly's heads that no other module of Lightning with a `backbone` has."""

_HEADS = ("projection_head", "prediction_head", "head", "dino_head", "ibot_head", "cls_head", "patch_head")
_SIDES = (("", ""), ("", "_momentum"), ("student_", ""), ("teacher_", ""), ("key_", ""), ("query_", ""))

_WHY = "as lightly's k-NN and linear benchmarks"


def _place(content: Content) -> tuple[str, str, str] | None:
    """Returns (key, backbone that a method's `forward` calls, which mark its networks have).

    That is `backbone`; DINOv2, iBOT and CAPI have none, and call their teacher.
    """
    for key in ("", "state_dict"):
        names = content.names(key)
        for mark in (_NUMBERED, _VIT, _TORCHVISION, _NAMED):
            own = mark != _NAMED or any(content.any_under(part, key) for part in _OWN)
            there = {name for name in ("backbone", *_TWINS) if f"{name}.{mark}" in names}
            if own and there:
                # Those that have a `backbone` have a projection head too, which is theirs where it is missing.
                taught = (
                    mark in (_VIT, _TORCHVISION)
                    and "backbone" not in there
                    and not content.any_under("projection_head.", key)
                )
                return key, "teacher_backbone" if taught else "backbone", mark
    return None


def _weights(content: Content) -> tuple[Weights, ...]:
    key, backbone, mark = _place(content) or ("", "backbone", _NAMED)
    inner = "vit." if mark in (_VIT, _TORCHVISION) else ""
    twins = [
        Weights(name=name, key=key, prefix=f"{name}.{inner}", what=f"the twin {name}")
        for name in _TWINS
        if name != backbone and content.any_under(f"{name}.{inner}", key)
    ]
    return (Weights(name=backbone, key=key, prefix=f"{backbone}.{inner}"), *twins)


def _network(found: Found) -> Network:
    if _TORCHVISION.removeprefix("vit.") in found.tensors:
        return vit(
            in_timm_names(found, torchvision_vit_to_timm),
            heads={(768, 12): 12, (1024, 24): 16, (1280, 32): 16},
            heads_origin="of torchvision's ViTs",
            positions="size",
            feature_origin=_WHY,
            evaluation=bilinear_crop,
            evaluation_origin=_WHY,
            rename=torchvision_vit_to_timm,
        )
    if "patch_embed.proj.weight" in found.tensors:
        # Of the methods with a teacher alone, those without registers switch antialiasing off.
        plain = found.weights.name == "teacher_backbone" and "reg_token" not in found.tensors
        return vit(
            in_timm_names(found),
            heads={(384, 12): 6, (768, 12): 12},
            heads_origin="of lightly's own benchmarks: timm's vit_small and vit_base",
            positions="size" if plain else "antialias",
            feature_origin=_WHY,
            evaluation=bilinear_crop,
            evaluation_origin=_WHY,
        )
    if _NAMED in found.tensors:
        return resnet(found, evaluation=bilinear_crop, evaluation_origin=_WHY)
    named = renamed_shapes(found, numbered_to_timm)
    return resnet(named, evaluation=bilinear_crop, evaluation_origin=_WHY, rename=numbered_to_timm)


ADAPTER = Adapter(
    name="lightly",
    summary="lightly's examples and benchmarks (ResNets, also by number; ViTs)",
    read_in="lightly-ai/lightly 0e4125d examples/pytorch_lightning/moco.py, 0c16c4a benchmarks/imagenet/resnet50/"
    "knn_eval.py and vitb16/knn_eval.py, 32c2b47 byol.py, 106fec9 dino.py, 00283d7 mocov2.py, 0137c61 swav.py, 05de213 "
    "tico.py, 02c788d vitb16/dinov2.py, 04a49c7 ibot.py, 14e7892 dino.py, 7e9c0ce mae.py, 2dfd93e capi.py, 01da385 "
    "lightly/models/modules/masked_vision_transformer_timm.py, 14315dd masked_vision_transformer_torchvision.py",
    rank=Rank.NAMES,
    matches=lambda content: _place(content) is not None,
    weights=_weights,
    inside={"head.": "classifier", "heads.": "classifier", "fc.": "classifier"},
    beside={
        **{
            f"{before}{head}{after}.": "predictor" if head == "prediction_head" else "projector"
            for head in _HEADS
            for before, after in _SIDES
        },
        **{f"{backbone}.mask_token": "mask token" for backbone in ("backbone", *_TWINS)},
        "decoder.": "decoder",
        "predictor.": "predictor",
        "prototypes.": "prototypes",
        "queues.": "queue",
        **{f"{name}.": "loss" for name in ("criterion", "dino_criterion", "ibot_criterion", "koleo_criterion")},
        **{f"{name}_criterion.": "loss" for name in ("cls", "patch")},
        "online_classifier.": "classifier",
        "memory_bank.": "memory",
    },
    network=_network,
)
