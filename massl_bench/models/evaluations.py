"""Authors' evaluation preprocessings that several layouts share."""

from __future__ import annotations

from functools import partial

from massl_bench.core.settings import Preprocessing
from massl_bench.models.build import centre_crop

bilinear_crop = partial(centre_crop, interpolation="bilinear")
"""Short side to 8/7 of a side (256 for 224), bilinear, centre crop, ImageNet's mean and deviation: torchvision's."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_crop(side: int) -> Preprocessing:
    """Returns CLIP's: short side to the side itself, bicubic, centre crop, its own mean and deviation."""
    return Preprocessing(
        resize=side, resize_mode="shortest", crop=side, interpolation="bicubic", mean=CLIP_MEAN, std=CLIP_STD
    )
