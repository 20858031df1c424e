"""open_clip with an image tower of timm, under `visual.trunk.`: its configuration, or the user, names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from massl_bench.core.errors import RequestError
from massl_bench.core.wording import asked
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.adapters.clip import TEXT_TOWER
from massl_bench.models.build import timm_network
from massl_bench.models.content import Content
from massl_bench.models.evaluations import OPEN_CLIP_CONFIG, clip_crop, open_clip_preprocessing

_TRUNK = "visual.trunk."


def _key(content: Content) -> str | None:
    return next((key for key in ("", "state_dict") if content.any_under(_TRUNK, key)), None)


def _weights(content: Content) -> tuple[Weights, ...]:
    key = _key(content) or ""
    return (Weights(name=key or "visual.trunk", key=key, prefix=_TRUNK, what="the image tower"),)


def _inner(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def _network(found: Found) -> Network:
    config = found.content.json(OPEN_CLIP_CONFIG)
    vision = _inner(_inner(config or {}, "model_cfg"), "vision_cfg")
    arch = found.settings.arch or vision.get("timm_model_name")
    if not isinstance(arch, str):
        raise RequestError(
            f"{found.where}: an image tower of timm in open_clip's layout does not tell its architecture: give "
            f"{asked('arch')}, or the directory with its {OPEN_CLIP_CONFIG}"
        )
    pool = vision.get("timm_pool")
    arguments: dict[str, Any] = {"global_pool": pool} if isinstance(pool, str) and pool else {}
    positions = found.shape("pos_embed")
    projected = any(name.startswith("visual.head.") for name in found.content.names(found.weights.key))
    network = timm_network(
        found,
        arch.partition(".")[0],
        positions="antialias" if positions and "vit" in arch else None,
        origin=f"{OPEN_CLIP_CONFIG} says so",
        notes=("open_clip projects this feature: its projection is left out",) if projected else (),
        **arguments,
    )
    side = network.preprocessing.crop or network.preprocessing.resize
    if config is not None:
        fed = open_clip_preprocessing(config, side, found.where)
        return replace(network, preprocessing=fed, preprocessing_origin=f"its {OPEN_CLIP_CONFIG}")
    return replace(
        network,
        preprocessing=clip_crop(side),
        preprocessing_origin="open_clip's default: SigLIP, CLIPA and MobileCLIP are fed otherwise (preprocessing)",
    )


ADAPTER = Adapter(
    name="open_clip_trunk",
    summary="open_clip with an image tower of timm",
    read_in="mlfoundations/open_clip 89fb801 timm_model.py, transform.py, push_to_hf_hub.py",
    rank=Rank.NAMES,
    matches=lambda content: _key(content) is not None,
    weights=_weights,
    beside={
        "visual.head.": "projection",
        **TEXT_TOWER,
        "text_projection.": "text tower",
    },
    network=_network,
)
