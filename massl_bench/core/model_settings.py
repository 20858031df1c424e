"""What the user says of a model beyond its name: the parts that a file does not tell, and what replaces its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from massl_bench.core.errors import RequestError
from massl_bench.core.settings import Interpolation, Preprocessing, ResizeMode, exact
from massl_bench.core.strict import Listed, StrictModel, first_problem

FeatureName = Literal["token", "avg", "token+avg", "token-before-norm", "last4"]
"""What becomes the feature of a network with tokens: the class token after the final norm, the mean of the patch tokens
after it, both one after the other, the class token before the final norm, or the class tokens of the last four blocks,
each after the final norm. `avg` is also what networks without tokens give: the mean of the last map."""

FEATURE_NAMES: tuple[str, ...] = get_args(FeatureName)


class PreprocessingChange(StrictModel):
    """What replaces parts of a model's own preprocessing; what is not named stays."""

    resize: int | None = Field(default=None, gt=0)
    resize_mode: ResizeMode | None = None
    crop: int | None = Field(default=None, gt=0)
    interpolation: Interpolation | None = None
    mean: Listed[tuple[float, float, float]] | None = None
    std: Listed[tuple[float, float, float]] | None = None

    @property
    def named(self) -> dict[str, object]:
        """The values by name, of those that are given."""
        return {name: value for name, value in self if value is not None}

    def apply(self, base: Preprocessing) -> Preprocessing:
        """Returns `base` with the named fields replaced."""
        return base.model_copy(update=self.named)


class ModelSettings(StrictModel):
    """All of them; a part of what the model is."""

    arch: str | None = None
    """A timm architecture, for a checkpoint whose shapes do not tell everything."""
    num_heads: int | None = Field(default=None, gt=0)
    """Attention heads, for a checkpoint that does not tell them."""
    checkpoint_key: str | None = None
    """Which of a checkpoint's sets of weights, where not the one that its authors evaluate."""
    img_size: int | None = Field(default=None, gt=0)
    """Side of the images that the network is fed, in pixels."""
    pooling: FeatureName | None = None
    """What becomes the feature."""
    preprocessing: PreprocessingChange | None = None

    @property
    def given(self) -> dict[str, str]:
        """What is given, as text by name."""
        texts = {name: str(value) for name, value in self if value is not None and name != "preprocessing"}
        if self.preprocessing is not None:
            texts |= {f"preprocessing.{name}": _text(value) for name, value in self.preprocessing.named.items()}
        return texts

    @property
    def named(self) -> list[tuple[str, str]]:
        """What is given, as (setting, value): a change of the preprocessing is `("preprocessing", "crop=96")`."""
        simple = [(name, text) for name, text in self.given.items() if "." not in name]
        changes = [name.partition(".")[2] for name in self.given if "." in name]
        return simple + [("preprocessing", f"{key}={self.given[f'preprocessing.{key}']}") for key in changes]

    @property
    def label(self) -> str:
        """What is given beyond the choice of weights, which their hash tells; empty for nothing."""
        return ",".join(f"{name}={text}" for name, text in self.given.items() if name != "checkpoint_key")

    def replaced_by(self, other: ModelSettings) -> ModelSettings:
        """Returns these settings, with those of `other` where it has any."""
        return self.model_copy(update={name: value for name, value in other if value is not None})


NO_SETTINGS = ModelSettings()
"""Where the user says nothing of a model but its name."""


def _text(value: object) -> str:
    return ",".join(map(exact, value)) if isinstance(value, tuple) else str(value)


def parse_preprocessing(changes: Sequence[str] | Mapping[str, Any]) -> PreprocessingChange | None:
    """Returns `("crop=96", "mean=0.5,0.5,0.5")`, or the same as a mapping, as a change; None for nothing.

    Raises:
        RequestError: A key or a value is not known.
    """
    if not changes:
        return None
    found = dict(changes) if isinstance(changes, Mapping) else _read(changes)
    try:
        return PreprocessingChange.model_validate(found)
    except ValidationError as error:
        raise RequestError(f"preprocessing {first_problem(error)}") from None


def _read(changes: Sequence[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    allowed = ", ".join(PreprocessingChange.model_fields)
    for change in changes:
        key, equals, text = change.partition("=")
        if key not in PreprocessingChange.model_fields or not equals or not text:
            raise RequestError(f"preprocessing {change}: expected KEY=VALUE with a key of {allowed}")
        if key in found:
            raise RequestError(f"preprocessing {change}: {key} is given twice")
        found[key] = _value(key, text, change)
    return found


def _value(key: str, text: str, change: str) -> object:
    try:
        if key in ("mean", "std"):
            return [float(part) for part in text.split(",")]
        return int(text) if key in ("resize", "crop") else text
    except ValueError:
        kind = "three numbers with commas between them" if key in ("mean", "std") else "a number of pixels"
        raise RequestError(f"preprocessing {change}: expected {kind}") from None


def parse_settings(  # the options of a model, as the command line and Python name them
    *,
    arch: str | None = None,
    num_heads: int | None = None,
    checkpoint_key: str | None = None,
    img_size: int | None = None,
    pooling: str | None = None,
    preprocessing: Sequence[str] | Mapping[str, Any] | None = None,
) -> ModelSettings:
    """Returns the settings of texts as a user writes them.

    Raises:
        RequestError: One of them is not known.
    """
    if pooling is not None and pooling not in FEATURE_NAMES:
        raise RequestError(f"pooling {pooling}: expected one of {', '.join(FEATURE_NAMES)}")
    return ModelSettings(
        arch=arch,
        num_heads=num_heads,
        checkpoint_key=checkpoint_key,
        img_size=img_size,
        pooling=pooling,  # type: ignore[arg-type]  # checked above
        preprocessing=parse_preprocessing(preprocessing or ()),
    )
