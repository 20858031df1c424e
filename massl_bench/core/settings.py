"""The settings that are shared by what measures and what is measured: preprocessing, pooling, augmentation."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from massl_bench.core.strict import Listed, Some, StrictModel

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

Precision = Literal["fp32", "tf32", "bf16", "fp16"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


ResizeMode = Literal["shortest", "squash", "longest"]
"""`shortest`: the short side becomes `resize`, the aspect is kept; `squash`: both sides become `resize`; `longest`: the
long side becomes `resize`, the aspect is kept, and a smaller image stays as it is (PIL's thumbnail)."""

Scales = Listed[Some[Annotated[float, Field(gt=0, le=1)]]]
"""Factors of the input's sides. The features of an image are the sum over them."""


class _ImageSettings(StrictModel):
    """A setting that came later stays out of hashes where it is not used: older hashes and keys hold."""

    @model_serializer(mode="wrap")
    def _without_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        own = type(self).model_fields
        later = {name: own[name].default for name in ("scales", "query_box", "whole_patches") if name in own}
        return {
            name: value for name, value in content.items() if name not in later or getattr(self, name) != later[name]
        }


class Preprocessing(_ImageSettings):
    """How an image becomes the input of an encoder; images are RGB, filters have PIL's (antialiased) semantics."""

    resize: int = Field(gt=0)
    """Target of the resize, in pixels."""
    resize_mode: ResizeMode
    crop: int | None = Field(gt=0)
    """Side of the centre crop, in pixels; a smaller image is padded with zeros. None for no crop."""
    interpolation: Interpolation
    mean: Listed[tuple[float, float, float]]
    """Subtracted from the values in [0, 1], per channel; zeros for none."""
    std: Listed[tuple[float, float, float]]
    """Divides after the mean was subtracted; ones for none."""
    scales: Scales = (1.0,)
    """The normalised image is interpolated to them bilinearly (no antialiasing, corners not aligned)."""
    query_box: bool = False
    """Whether queries are cropped to their boxes before the resize."""

    def of_split(self, role: str) -> Preprocessing:
        """Returns what is done to the images of one split: only queries have boxes."""
        return self if role == "queries" else self.model_copy(update={"query_box": False})

    def of_crops(self) -> Preprocessing:
        """Returns what is done to images that are centre crops already: their border is not cut off once more."""
        return self if self.crop is None else self.model_copy(update={"resize": self.crop})

    def describe(self) -> str:
        """Returns the whole chain in one line, for people."""
        how = {"shortest": "short side to", "squash": "both sides to", "longest": "long side to at most"}
        text = f"resize {how[self.resize_mode]} {self.resize} ({self.interpolation}, antialiased), "
        text += f"centre crop {self.crop}" if self.crop is not None else "no crop"
        if self.query_box:
            text = f"crop queries to their boxes, {text}"
        if self.mean == (0.0, 0.0, 0.0) and self.std == (1.0, 1.0, 1.0):
            text += ", values in [0, 1]"
        else:
            text += f", mean {list(self.mean)}, std {list(self.std)}"
        if self.scales != (1.0,):
            text += f", features summed over the scales {', '.join(f'{scale:.4g}' for scale in self.scales)} (bilinear)"
        return text


DEFAULT_PREPROCESSING = Preprocessing(
    resize=256, resize_mode="shortest", crop=224, interpolation="bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD
)
"""The default of the classification protocols (MaSSL, CARP and DINO evaluate at this setting)."""


_SMALL = 64
"""Images up to this side are evaluated whole: cutting an eighth off their borders would take what they show."""


def own_size(
    side: int,
    *,
    interpolation: Interpolation = "bicubic",
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Preprocessing:
    """Returns how images of `side` pixels are evaluated: short side to 8/7 of it (256 for 224), centre crop."""
    return Preprocessing(
        resize=side if side <= _SMALL else round(side * 8 / 7),
        resize_mode="shortest",
        crop=side,
        interpolation=interpolation,
        mean=mean,
        std=std,
    )


class PreprocessingOverride(_ImageSettings):
    """What a task changes of the model's preprocessing; what is not named stays the model's."""

    resize: int | None = Field(default=None, gt=0)
    resize_mode: ResizeMode | None = None
    """`longest` also takes the model's crop away."""
    crop: int | None = Field(default=None, gt=0)
    interpolation: Interpolation | None = None
    scales: Scales | None = None
    query_box: bool | None = None
    whole_patches: bool | None = None
    """Whether resize and crop become multiples of the network's patch, where they are larger than that."""

    def apply(self, base: Preprocessing) -> Preprocessing:
        """Returns `base` with the named fields replaced."""
        named = {name: value for name, value in self if value is not None and name != "whole_patches"}
        return base.model_copy(update={"crop": None, **named} if self.resize_mode == "longest" else named)


def exact(value: float) -> str:
    """Returns a number as short as can be, so that no other number is written alike."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


class _PoolingModel(StrictModel):
    """What becomes the feature for a task."""

    needed: ClassVar[bool] = False
    """Whether a network without it cannot do the task; otherwise it keeps its own feature."""
    words: ClassVar[str] = ""
    """What is needed."""


class ClassGem(_PoolingModel):
    """Class token ‖ generalised mean (GeM) of the patch tokens, after the final norm (DINO, ICCV 2021, 4.2.1)."""

    kind: Literal["class-gem"]
    exponent: float = Field(gt=0)
    floor: float = Field(gt=0)
    """Smaller values of the patch tokens are raised to this one: the power needs positive ones."""

    def describe(self) -> str:
        """Returns what becomes the feature, for people and for keys."""
        return (
            f"class token and GeM (exponent {exact(self.exponent)}, values from {exact(self.floor)}) of the patch "
            "tokens, after the final norm"
        )


class LastBlocks(_PoolingModel):
    """Class tokens of a ViT's last blocks; of a wide ViT, the last one and the mean of the patch tokens.

    Each block after the final norm, as the script of DINO's linear evaluation takes them.
    """

    kind: Literal["last-blocks"]
    num_blocks: int = Field(gt=0)
    wide: int = Field(gt=0)
    """The width from which on a ViT counts as wide."""


class BlocksAndMean(_PoolingModel):
    """Class tokens of a ViT's last blocks, then the mean of the last one's patch tokens, each after the final norm.

    Several representations are parts of it (DINOv2's linear evaluation).
    """

    kind: Literal["blocks-and-mean"]
    num_blocks: int = Field(gt=0)


class PatchTokens(_PoolingModel):
    """The patch tokens after the final norm, each by itself: features [L, D] of an image."""

    needed = True
    words = "the patch tokens"

    kind: Literal["patch-tokens"]


class EveryBlock(_PoolingModel):
    """The model's own feature of every block: the block's output in place of the last one's, through norm and pooling.

    A network without blocks that can be told apart has no such feature.
    """

    needed = True
    words = "every block"

    kind: Literal["every-block"]


Pooling = Annotated[ClassGem | LastBlocks | BlocksAndMean | EveryBlock | PatchTokens, Field(discriminator="kind")]
"""What becomes the feature for a task, where it is not the model's own."""


class Augmentation(StrictModel):
    """How training views are cut out: RandomResizedCrop to the crop of the model's preprocessing, and a flip."""

    crop_scale: Listed[tuple[float, float]]
    """Range of the view's share of the image's area; of what is above 1 nothing fits, and another share is drawn."""
    crop_ratio: Listed[tuple[float, float]]
    """Range of its width over its height, before it is resized to a square."""
    crop_interpolation: Interpolation
    flip_probability: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _ranges(self) -> Augmentation:
        low, high = self.crop_scale
        if not 0 < low <= min(high, 1):
            raise ValueError(f"crop_scale: expected 0 < low <= high and low <= 1, got {list(self.crop_scale)}")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ValueError(f"crop_ratio: expected 0 < low <= high, got {list(self.crop_ratio)}")
        return self


class JitteredAugmentation(Augmentation):
    """Training views whose colours change, too: brightness, contrast, saturation and hue, in this order."""

    jitter: float = Field(ge=0, le=0.5)
    """Range of each change: factors within 1 ± this, and a turn of the hue within ± this."""
    jitter_probability: float = Field(ge=0, le=1)
    """Of each change, by itself."""


class PrecisionBar(StrictModel):
    """How far features in a lower precision must agree with fp32's, on a sample of each split, to enter a table."""

    sample: int = Field(ge=1000)
    """Images at least; all of a split that has fewer."""
    min_cosine: float = Field(gt=0, le=1)
    """The smallest cosine between an image's two features."""
    min_equal_neighbours: float = Field(gt=0, le=1)
    """The share of the images whose nearest neighbour in the sample is the same."""


class PrecisionAgreement(StrictModel):
    """How far features in a lower precision were found to agree with fp32's."""

    num_images: int = Field(gt=0)
    min_cosine: float = Field(ge=-1, le=1)
    equal_neighbours: float = Field(ge=0, le=1)

    def shortfall(self, bar: PrecisionBar) -> str | None:
        """Returns what is below a bar, for people, or None where nothing is."""
        text = (
            f"smallest cosine {self.min_cosine:.4f} (at least {bar.min_cosine:g}), equal nearest neighbours "
            f"{100 * self.equal_neighbours:.1f} % (at least {100 * bar.min_equal_neighbours:g} %), of "
            f"{self.num_images:,} images"
        )
        kept = self.min_cosine >= bar.min_cosine and self.equal_neighbours >= bar.min_equal_neighbours
        return None if kept else text
