"""Authors' evaluation preprocessings that several layouts share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import ValidationError

from massl_bench.core.errors import RequestError
from massl_bench.core.settings import Preprocessing, own_size
from massl_bench.core.strict import first_problem

bilinear_crop = partial(own_size, interpolation="bilinear")
"""Short side to 8/7 of a side (256 for 224), bilinear, centre crop, ImageNet's mean and deviation: torchvision's."""


def unit_crop(resize: int, side: int) -> Preprocessing:
    """Returns short side to `resize`, bilinear, centre crop, values in [0, 1]: of networks that norm nothing before."""
    return Preprocessing(
        resize=resize,
        resize_mode="shortest",
        crop=side,
        interpolation="bilinear",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


OPEN_CLIP_CONFIG = "open_clip_config.json"
"""What open_clip says of a model, beside its weights."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_crop(side: int) -> Preprocessing:
    """Returns CLIP's: short side to the side itself, bicubic, centre crop, its own mean and deviation."""
    return Preprocessing(
        resize=side, resize_mode="shortest", crop=side, interpolation="bicubic", mean=CLIP_MEAN, std=CLIP_STD
    )


def open_clip_preprocessing(config: Mapping[str, Any], side: int, where: str) -> Preprocessing:
    """Returns what open_clip's configuration says of preprocessing, and open_clip's own where it says nothing.

    Args:
        config: the whole file.
        side: of the network's images, in pixels.
        where: for messages.

    Raises:
        RequestError: It asks for what is not supported.
    """
    own = config.get("preprocess_cfg") or {}
    base = clip_crop(side)
    try:
        mode = str(own.get("resize_mode", "shortest"))
        return Preprocessing(
            resize=side,
            resize_mode=mode,  # type: ignore[arg-type]  # pydantic refuses another
            crop=side,
            interpolation=own.get("interpolation", base.interpolation),
            mean=tuple(own.get("mean", base.mean)),
            std=tuple(own.get("std", base.std)),
        )
    except ValidationError as error:
        raise RequestError(f"{where}: {OPEN_CLIP_CONFIG}: preprocess_cfg: {first_problem(error)}") from None
    except (TypeError, AttributeError) as error:
        raise RequestError(f"{where}: {OPEN_CLIP_CONFIG}: preprocess_cfg: {error}") from None
