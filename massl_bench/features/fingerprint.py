"""The fingerprint of an encoder is computed, and remembered under what it depends on."""

from __future__ import annotations

import math
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from massl_bench.core.errors import CellError, one_line
from massl_bench.core.files import read_memo, sha256_of, write_memo
from massl_bench.core.fingerprint import EncoderFingerprint, ImageFeature

if TYPE_CHECKING:
    import torch

    from massl_bench.models import ModelCard
    from massl_bench.models.encoder import Encoder

IMAGES = Path(__file__).with_name("fingerprint_images")
"""Three PNGs of patterns: a wide one with fine structure, a high one with areas, and a small square of noise."""

NAMES = ("blocks", "noise", "stripes")

_NUM_VALUES = 8
_DIGITS = 6
"""Of the root mean square of a feature's values: as many decimals have all numbers of the image."""

_MEMOS = "encoders"


def fingerprint_of(encoder: Encoder) -> EncoderFingerprint:
    """Returns the fingerprint of an encoder on the CPU, through its own preprocessing.

    Raises:
        CellError: It does not take such images, or its features are not finite.
    """
    card = encoder.card
    try:
        features = [_feature(encoder, name) for name in NAMES]
        return EncoderFingerprint(
            weights=card.weights_sha256[:12],
            network=card.network_sha256[:12],
            preprocessing=sha256_of(card.preprocessing.model_dump(mode="json"))[:12],
            embed_dim=len(features[0]),
            images=tuple(_summary(name, feature) for name, feature in zip(NAMES, features, strict=True)),
        )
    except (AssertionError, RuntimeError, ValueError, TypeError) as error:  # pydantic's for what is not finite
        reason = "features that are not finite" if isinstance(error, ValidationError) else one_line(error)
        raise CellError(f"model {card.name}: no fingerprint of its features: {reason}") from None


def _feature(encoder: Encoder, name: str) -> torch.Tensor:
    """Returns the feature of an image, float64 [D]."""
    import torch

    from massl_bench.datasets import decode_rgb
    from massl_bench.datasets.images.preprocess import apply_preprocessing
    from massl_bench.features.extraction import numerics

    pixels = apply_preprocessing(decode_rgb(IMAGES / f"{name}.png"), encoder.card.preprocessing)
    with numerics("fp32", "cpu"):
        return encoder(encoder.normalise(torch.from_numpy(pixels)[None])).reshape(-1).double()


def _summary(name: str, feature_D: torch.Tensor) -> ImageFeature:
    size = len(feature_D)
    norm = float(feature_D.norm())
    count = min(_NUM_VALUES, size)
    # What is far below the root mean square is noise of the arithmetic.
    digits = _DIGITS - 1 - math.floor(math.log10(norm / size**0.5)) if norm > 0 and math.isfinite(norm) else 0
    some = [float(feature_D[place * size // count]) for place in range(count)]
    numbers = (norm, float(feature_D.mean()), float(feature_D.std(correction=0)), *some)
    norm, mean, std, *values = (round(number, digits) + 0.0 for number in numbers)  # + 0.0: no -0.0
    return ImageFeature(image=name, norm=norm, mean=mean, std=std, values=tuple(values))


def known_fingerprint(card: ModelCard, cache_dir: Path) -> EncoderFingerprint | None:
    """Returns the fingerprint that is remembered of a model; None where there is none yet."""
    memo = read_memo(cache_dir / _MEMOS, _key(card))
    try:
        return EncoderFingerprint.model_validate_json(memo["fingerprint"]) if memo is not None else None
    except (ValidationError, KeyError):
        return None


def remember_fingerprint(encoder: Encoder, cache_dir: Path) -> EncoderFingerprint:
    """Returns the fingerprint of an encoder on the CPU, remembered or computed; raises as `fingerprint_of`."""
    found = known_fingerprint(encoder.card, cache_dir)
    if found is None:
        found = fingerprint_of(encoder)
        write_memo(cache_dir / _MEMOS, _key(encoder.card), {"fingerprint": found.model_dump_json()})
    return found


def _key(card: ModelCard) -> str:
    """Returns the hash of all that a fingerprint depends on: what the encoder is, and what computes it."""
    parts = card.model_dump(mode="json", include={"weights_sha256", "network_sha256", "pooling", "preprocessing"})
    return sha256_of([1, parts, *(metadata.version(name) for name in ("massl-bench", "torch", "timm", "pillow"))])
