"""Copies that the suite makes itself, so that copy detection runs on any folder of images.

Which images are originals and what becomes of each is drawn from the seed and the image's name alone: neither the order
of the images nor the number of the others changes a copy. The copies are made when they are read, and never written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any, Literal

import numpy as np
import PIL
from PIL import Image, features
from pydantic import Field
from typing_extensions import override

from massl_bench.core.errors import RequestError, unknown_name
from massl_bench.core.files import sha256_of
from massl_bench.core.strict import IncreasingNumbers, StrictModel
from massl_bench.core.values import CopyTruth, GroundTruth
from massl_bench.datasets.alterations import StrongAlteration, alter_strongly, crop, jpeg
from massl_bench.datasets.dataset import Dataset
from massl_bench.datasets.images.decoding import Decoding, DerivedImage, EncodedImage, decode_rgb
from massl_bench.datasets.left_out import LeftOut
from massl_bench.datasets.splits import ImageSplit, SubsetSplit
from massl_bench.datasets.twins import Distinct, distinct_images
from massl_bench.specs.dataset import DatasetSpec
from massl_bench.specs.registry import Registry
from massl_bench.specs.toml import read_toml


class CopiesSpec(StrictModel):
    """How images become originals, distractors and copies: one file of `tasks/copies/`."""

    name: str
    version: int = Field(ge=1)
    summary: str
    seed: int = Field(ge=0)
    min_images: int = Field(ge=2)
    """Fewer are an error."""
    originals_share: float = Field(gt=0, le=1)
    """Of the images, that copies are made of."""
    max_originals: int = Field(gt=0)
    whitening_share: float = Field(ge=0, lt=1)
    """Of the images, that a whitening is learned on; the rest are distractors."""
    whitening_from: int = Field(gt=0)
    """With fewer images in all there are none for a whitening."""
    crops_kept_percent: IncreasingNumbers
    """Of the area; one block of copies each."""
    jpeg_qualities: IncreasingNumbers
    """One block of copies each."""
    jpeg_subsampling: Literal["4:4:4", "4:2:2", "4:2:0"]
    strong: StrongAlteration

    @property
    def blocks(self) -> tuple[str, ...]:
        """The kinds of change, under the names that Copydays gives its own."""
        crops = (f"crops/{percent}" for percent in self.crops_kept_percent)
        return ("strong", *crops, *(f"jpegqual/{quality}" for quality in self.jpeg_qualities))

    def alter(self, image: Image.Image, name: str, block: str) -> Image.Image:
        """Returns the copy of one block of an image, RGB, that is called `name`."""
        rng = Random(int(sha256_of([self.seed, name, block]), 16))  # random() is the same in every version of Python
        kind, _, strength = block.partition("/")
        match kind:
            case "crops":
                return crop(image, int(strength), rng)
            case "jpegqual":
                return jpeg(image, int(strength), self.jpeg_subsampling)
            case _:
                return alter_strongly(image, self.strong, self.jpeg_subsampling, rng)


@dataclass(frozen=True)
class _Copy(DerivedImage):
    """One copy, not made yet."""

    image: EncodedImage
    decoding: Decoding
    name: str
    block: str
    copies: CopiesSpec

    @override
    def render(self) -> Image.Image:
        return self.copies.alter(decode_rgb(self.image, self.decoding), self.name, self.block)


class CopySplit(ImageSplit):
    """All copies of some images, image after image."""

    def __init__(self, originals: ImageSplit, copies: CopiesSpec) -> None:
        self._originals, self._copies, self.decoding = originals, copies, originals.decoding
        self.labels = self.class_names = None

    @override
    def __len__(self) -> int:
        return len(self._originals) * len(self._copies.blocks)

    @override
    def encoded(self, indices: Sequence[int]) -> list[EncodedImage]:
        blocks = self._copies.blocks
        rows = [index // len(blocks) for index in indices]
        images = zip(indices, rows, self._originals.encoded(rows), strict=True)
        return [
            _Copy(image, self.decoding, self._originals.name(row), blocks[index % len(blocks)], self._copies)
            for index, row, image in images
        ]

    @override
    def locate(self, index: int) -> str:
        row, block = divmod(index, len(self._copies.blocks))
        return f"{self._originals.locate(row)} as {self._copies.blocks[block]}"

    @override
    def name(self, index: int) -> str:
        row, block = divmod(index, len(self._copies.blocks))
        return f"{self._originals.name(row)} as {self._copies.blocks[block]}"

    @property
    def truth(self) -> CopyTruth:
        """Which original each copy was made of."""
        count, blocks = len(self._originals), self._copies.blocks
        return CopyTruth(original=np.repeat(np.arange(count), len(blocks)), block=np.tile(np.array(blocks), count))


@dataclass(frozen=True, kw_only=True)
class CopiesDataset(Dataset):
    """Images in the roles of copy detection, with the copies that the suite makes of them.

    Attributes:
        images: the dataset that they are taken from, of one split.
        copies: how.
    """

    images: Dataset
    copies: CopiesSpec
    distinct: Distinct

    def seeded(self, seed: int) -> CopiesDataset:
        """Returns the same images with other draws."""
        return replace(self, copies=self.copies.model_copy(update={"seed": seed}))

    @cached_property
    @override
    def fingerprint(self) -> str:
        """Hex sha256 of the content of the images, and of everything that decides what becomes of them."""
        return sha256_of({"images": self.images.fingerprint, "copies": self.generated, **self._drawn()})

    @property
    @override
    def generated(self) -> Mapping[str, Any]:
        """Every number behind the copies, and the versions of the libraries that make them."""
        numbers = self.copies.model_dump(mode="json", exclude={"summary"})
        twins = {"twins_left_out": len(self.distinct.twins)} if self.distinct.twins else {}
        return {**numbers, **twins, "pillow": PIL.__version__, "libjpeg": _jpeg_version()}

    @cached_property
    @override
    def left_out(self) -> LeftOut:
        """As of the images, and every image but the first of those with one content."""
        return self.images.left_out + LeftOut.of(self.distinct.twins)

    @cached_property
    def _roles(self) -> dict[str, ImageSplit]:
        whole = self.images.split(_only_split(self.images))
        return divide(SubsetSplit(whole, self.distinct.rows) if self.distinct.twins else whole, self.copies)

    @override
    def _read(self, role: str) -> ImageSplit:
        return self._roles[role]

    @override
    def _truth(self) -> GroundTruth | None:
        queries = self._roles["queries"]
        assert isinstance(queries, CopySplit)
        return queries.truth


def with_copies(images: Dataset, name: str, registry: Registry, spec: DatasetSpec | None = None) -> CopiesDataset:
    """Returns images without copies as a dataset for copy detection.

    Args:
        images: of one split.
        name: of the file of `tasks/copies/` that says how.
        registry: where that file is.
        spec: of the result, where it is a registered dataset.

    Raises:
        RequestError: There is no such file, or there are too few images.
    """
    if name not in registry.copies:
        raise unknown_name("description of copies", name, registry.copies)
    copies = read_toml(registry.copies[name], CopiesSpec)
    found = distinct_images(images.split(_only_split(images)), images.fingerprint, images.memo_dir)
    count = len(found.rows)
    if count < copies.min_images:
        raise RequestError(
            f"{images.name}: found {count} images, expected at least {copies.min_images}: copy detection takes some as "
            "originals, of which copies are made, and the others as distractors"
        )
    return CopiesDataset(
        name=images.name,
        kind="copy-detection",
        spec=spec,
        layout=images.layout,
        sources={role: (role,) for role in _sizes(count, copies)},
        memo_dir=images.memo_dir,
        decoding=images.decoding,
        images=images,
        copies=copies,
        distinct=found,
    )


def divide(images: ImageSplit, copies: CopiesSpec) -> dict[str, ImageSplit]:
    """Returns the splits by role, each in the order of `images`; which image has which role is drawn by its name."""
    sizes = _sizes(len(images), copies)
    drawn = sorted(range(len(images)), key=lambda row: sha256_of([copies.seed, images.name(row)]))
    splits: dict[str, ImageSplit] = {}
    for role in ("originals", "whitening", "distractors"):
        if role in sizes:
            rows, drawn = drawn[: sizes[role]], drawn[sizes[role] :]
            splits[role] = SubsetSplit(images, sorted(rows))
    return {**splits, "queries": CopySplit(splits["originals"], copies)}


def _sizes(count: int, copies: CopiesSpec) -> dict[str, int]:
    """Returns the number of items by role, without the roles that have none."""
    originals = min(copies.max_originals, max(1, round(copies.originals_share * count)))
    whitening = round(copies.whitening_share * count) if count >= copies.whitening_from else 0
    sizes = {
        "originals": originals,
        "queries": originals * len(copies.blocks),
        "distractors": count - originals - whitening,
        "whitening": whitening,
    }
    return {role: size for role, size in sizes.items() if size > 0}


def _only_split(images: Dataset) -> str:
    (role,) = images.sources
    return role


def _jpeg_version() -> str:
    turbo = features.version("libjpeg_turbo")
    return f"turbo {turbo}" if turbo else str(features.version("jpg"))
