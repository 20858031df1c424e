"""What a copy may have gone through: each alteration is a function of an image, its strength and a generator."""

from __future__ import annotations

import io
import math
from random import Random
from typing import Annotated

from PIL import Image, ImageEnhance, ImageFilter
from pydantic import Field, model_validator

from massl_bench.core.strict import Listed, StrictModel

_Channel = Annotated[int, Field(ge=0, le=255)]


class Range(StrictModel):
    """Bounds of a number that is drawn evenly between them."""

    low: float
    high: float

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if not self.low <= self.high:
            raise ValueError(f"expected low <= high, got {self.low} and {self.high}")
        return self

    def draw(self, rng: Random) -> float:
        """Returns a number between the bounds."""
        return rng.uniform(self.low, self.high)


class StrongAlteration(StrictModel):
    """Everything at once, in the order of the fields."""

    kept_percent: Range
    """Of the area, by a crop at any place, of the image's own aspect."""
    rotation_degrees: Range
    """Counter-clockwise, of an unchanged frame; its corners become `fill`."""
    fill: Listed[tuple[_Channel, _Channel, _Channel]]
    """RGB, 0-255."""
    blur_percent: Range
    """Radius of a Gaussian blur, of the shorter side."""
    brightness: Range
    """Factors, 1 for no change; so are the next two."""
    contrast: Range
    saturation: Range
    overlay_percent: Range
    """Of the area, by an opaque rectangle of one drawn colour at any place, of the image's own aspect."""
    jpeg_quality: Range


def crop(image: Image.Image, kept_percent: float, rng: Random) -> Image.Image:
    """Returns a piece of `kept_percent` of the area, of the same aspect, at a place that is drawn."""
    left, top, width, height = _box(image.size, kept_percent, rng)
    return image.crop((left, top, left + width, top + height))


def jpeg(image: Image.Image, quality: int, subsampling: str) -> Image.Image:
    """Returns the image after it went through JPEG.

    Args:
        image: RGB.
        quality: libjpeg's, 1 to 100.
        subsampling: of the colours, as in `4:2:0`.
    """
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=quality, subsampling=subsampling)
    with Image.open(content, formats=("JPEG",)) as decoded:
        return decoded.convert("RGB")


def alter_strongly(image: Image.Image, alteration: StrongAlteration, subsampling: str, rng: Random) -> Image.Image:
    """Returns the image after all of `alteration`, with numbers that are drawn anew for each call."""
    image = crop(image, alteration.kept_percent.draw(rng), rng)
    degrees = alteration.rotation_degrees.draw(rng)
    image = image.rotate(degrees, resample=Image.Resampling.BICUBIC, fillcolor=alteration.fill)
    radius = alteration.blur_percent.draw(rng) / 100 * min(image.size)
    image = image.filter(ImageFilter.GaussianBlur(radius))
    image = ImageEnhance.Brightness(image).enhance(alteration.brightness.draw(rng))
    image = ImageEnhance.Contrast(image).enhance(alteration.contrast.draw(rng))
    image = ImageEnhance.Color(image).enhance(alteration.saturation.draw(rng))
    left, top, width, height = _box(image.size, alteration.overlay_percent.draw(rng), rng)
    colour = (int(256 * rng.random()), int(256 * rng.random()), int(256 * rng.random()))
    image.paste(colour, (left, top, left + width, top + height))
    return jpeg(image, round(alteration.jpeg_quality.draw(rng)), subsampling)


def _box(size: tuple[int, int], percent: float, rng: Random) -> tuple[int, int, int, int]:
    """Returns (left, top, width, height) of a rectangle of `percent` of the area, in whole pixels and at least one."""
    scale = math.sqrt(percent / 100)
    width, height = (max(1, round(side * scale)) for side in size)
    left, top = (round(rng.random() * (whole - part)) for whole, part in zip(size, (width, height), strict=True))
    return left, top, width, height
