"""What the configurations of Hugging Face's transformers say: how images are fed, and numbers of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pydantic import ValidationError
from torch import nn

from massl_bench.core.errors import RequestError
from massl_bench.core.settings import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from massl_bench.core.strict import first_problem
from massl_bench.models.adapter import Found
from massl_bench.models.content import Content

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers of its filters."""

_ACTIVATIONS: Mapping[str, Callable[..., nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_pytorch_tanh": partial(nn.GELU, approximate="tanh"),
    "gelu_new": partial(nn.GELU, approximate="tanh"),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}


def model_type(content: Content) -> str | None:
    """Returns which of transformers' models a directory says that it holds; None where it says none."""
    config = content.json(CONFIG)
    told = config.get("model_type") if config is not None else None
    return told if isinstance(told, str) else None


def number_of(found: Found, name: str, default: float | None = None) -> float:
    """Returns a positive number of a directory's `config.json`.

    Raises:
        RequestError: It is not there and has no default, or is no such number.
    """
    config = found.content.json(CONFIG) or {}
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise RequestError(f"{found.where}: {CONFIG}: {name}: expected a positive number, found {value!r}")
    return value


def heads_of_config(found: Found, width: int) -> int:
    """Returns the number of attention heads of a directory's `config.json`.

    Raises:
        RequestError: It is not there, or does not divide the width.
    """
    heads = number_of(found, "num_attention_heads")
    if heads != int(heads) or width % int(heads):
        raise RequestError(f"{found.where}: {CONFIG}: num_attention_heads: {heads} does not divide the width {width}")
    return int(heads)


def activation_of(found: Found) -> Callable[..., nn.Module]:
    """Returns the activation that a directory's `config.json` names.

    Raises:
        RequestError: It is another one.
    """
    name = (found.content.json(CONFIG) or {}).get("hidden_act", "gelu")
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise RequestError(f"{found.where}: {CONFIG}: hidden_act: {name!r}; supported: {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def processor_preprocessing(found: Found) -> tuple[Preprocessing, str] | None:
    """Returns (how a directory's image processor feeds images, that it says so); None where it has none.

    Raises:
        RequestError: It asks for what is not supported.
    """
    config = found.content.json(PROCESSOR)
    if config is None:
        return None
    try:
        return _preprocessing(config), f"its {PROCESSOR}"
    except ValidationError as error:
        raise RequestError(f"{found.where}: {PROCESSOR}: {first_problem(error)}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{found.where}: {PROCESSOR}: not supported: {type(error).__name__}: {error}") from None


def _preprocessing(config: Mapping[str, Any]) -> Preprocessing:
    if not config.get("do_resize", True) or not config.get("do_rescale", True):
        raise ValueError("do_resize and do_rescale must be true")
    # What is not 1/255 (EfficientNet's) gives other values than [0, 1].
    if abs(float(config.get("rescale_factor", 1 / 255)) * 255 - 1) > 1e-3:
        raise ValueError(f"rescale_factor {config['rescale_factor']}")
    mode, resize = _size(config["size"])
    cropped = config.get("do_center_crop", "crop_size" in config and "do_center_crop" not in config)
    crop = _square(config.get("crop_size", resize)) if cropped else resize if mode == "squash" else None
    normalised = config.get("do_normalize", True)
    return Preprocessing(
        resize=resize,
        resize_mode="squash" if mode == "squash" else "shortest",
        crop=crop,
        interpolation=_RESAMPLING[int(config.get("resample", 2))],  # type: ignore[arg-type]
        mean=tuple(config.get("image_mean", IMAGENET_MEAN)) if normalised else (0.0, 0.0, 0.0),
        std=tuple(config.get("image_std", IMAGENET_STD)) if normalised else (1.0, 1.0, 1.0),
    )


def _size(size: Any) -> tuple[str, int]:
    """Returns (`shortest` or `squash`, side): old configurations have a number, which is both sides for a ViT."""
    if isinstance(size, Mapping) and "shortest_edge" in size:
        return "shortest", int(size["shortest_edge"])
    return "squash", _square(size)


def _square(size: Any) -> int:
    if isinstance(size, Mapping):
        if size["height"] != size["width"]:
            raise ValueError(f"{size['height']} × {size['width']}, which is no square")
        return int(size["height"])
    return int(size)
