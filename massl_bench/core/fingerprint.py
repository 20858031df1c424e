"""The fingerprint of an encoder: what it makes of three fixed images, for two people to see whether theirs is the same.

Two machines do not compute the same last digits, and a hash of rounded digits would differ wherever one lies on the
border of two roundings. So weights, network and preprocessing have hashes, which are exact, and features are numbers,
which are compared with a tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from massl_bench.core.strict import Listed, StrictModel

TOLERANCE = 1e-4
"""Of a number of a fingerprint, in units of the root mean square of the image's feature. Orders of summation (threads,
BLAS libraries, processors) change float32 features by 1e-6 to 1e-5 of it; another number of heads, way of resampling
position embeddings, activation or preprocessing by 4e-4 and more."""


class ImageFeature(StrictModel):
    """The feature of one of the images, to six significant digits of the root mean square of its values."""

    image: str
    norm: float = Field(ge=0)
    """Euclidean."""
    mean: float
    std: float = Field(ge=0)
    """Of all its values, around their mean."""
    values: Listed[tuple[float, ...]] = Field(min_length=1)
    """Some of them: number `i * D // n` of its D values, for `i` from 0 to n - 1."""


class EncoderFingerprint(StrictModel):
    """What an encoder is, exactly, and what it makes of three fixed images, in fp32 on a CPU."""

    format: Literal[1] = 1
    """Of the images and of how they go through the encoder."""
    weights: str
    """Beginning of the hash of the tensors."""
    network: str
    """Beginning of the hash of every number of the network that its tensors do not tell."""
    preprocessing: str
    """Beginning of the hash of how images are fed, by the model's own way, not a task's."""
    embed_dim: int = Field(gt=0)
    images: Listed[tuple[ImageFeature, ...]] = Field(min_length=1)

    def differences(self, other: EncoderFingerprint) -> tuple[str, ...]:
        """Returns what differs of two encoders: hashes, and numbers by more than the tolerance.

        `fingerprint.weights: recorded 0f1e…, found 2d3c…`, `fingerprint.images.stripes.norm: recorded 0.5, found 0.25`
        """
        ours, theirs = (each.model_dump(exclude={"images"}) for each in (self, other))
        found = [f"fingerprint.{name}: recorded {ours[name]}, found {theirs[name]}" for name in ours]
        found = [text for text, name in zip(found, ours, strict=True) if ours[name] != theirs[name]]
        if (self.format, self.embed_dim) != (other.format, other.embed_dim):
            return tuple(found)  # no number means the same
        for one, another in zip(self.images, other.images, strict=True):
            found += [
                f"fingerprint.images.{one.image}.{name}: recorded {mine:.6g}, found {yours:.6g}"
                for name, mine, yours, scale in _pairs(one, another, self.embed_dim)
                if abs(mine - yours) > TOLERANCE * scale
            ]
        return tuple(found)

    def lines(self, name: str) -> list[str]:
        """Returns it for people: the hashes, a table in as many decimals as two machines agree in, how to compare.

        Args:
            name: of the model.
        """
        hashes = f"weights {self.weights}, network {self.network}, preprocessing {self.preprocessing}"
        unit = f"an image's norm / √{self.embed_dim}"
        same = f"the same encoder: the same weights, and numbers within {TOLERANCE:g} of {unit}"
        return [f"fingerprint of {name}: {hashes}", *self._table(), same]

    def _table(self) -> list[str]:
        from tabulate import tabulate

        places = [place * self.embed_dim // len(self.images[0].values) for place in range(len(self.images[0].values))]
        rows = []
        for each in self.images:
            unit = each.norm / self.embed_dim**0.5
            decimals = max(0, 3 - math.floor(math.log10(unit))) if unit > 0 else 3
            numbers = (each.norm, each.mean, each.std, *each.values)
            rows.append([each.image, *(f"{number:.{decimals}f}" for number in numbers)])
        heads = ["image", "norm", "mean", "std", *(f"[{place}]" for place in places)]
        text = tabulate(
            rows, heads, tablefmt="plain", disable_numparse=True, colalign=["left", *["right"] * len(heads[1:])]
        )
        return text.splitlines()


def _pairs(one: ImageFeature, other: ImageFeature, embed_dim: int) -> Iterator[tuple[str, float, float, float]]:
    """Yields (name, value of one, value of the other, the size that is one unit) of every number of an image."""
    norm = max(one.norm, other.norm)
    root_mean_square = norm / embed_dim**0.5
    yield "norm", one.norm, other.norm, norm
    yield "mean", one.mean, other.mean, root_mean_square
    yield "std", one.std, other.std, root_mean_square
    for place, (ours, theirs) in enumerate(zip(one.values, other.values, strict=True)):
        yield f"values.{place}", ours, theirs, root_mean_square
