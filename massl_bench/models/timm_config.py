"""timm's data configs: how images are fed to a model, and the filter that renames published tensors."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import timm
from timm.data.config import resolve_data_config

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.settings import Preprocessing
from massl_bench.core.strict import first_problem


def timm_preprocessing(network: Any, where: str) -> Preprocessing:
    """Returns the preprocessing that a timm model asks for, as timm's own evaluation transform applies it.

    Raises:
        RequestError: It is of a kind that is not supported.
    """
    config = resolve_data_config({}, model=network)  # type: ignore[no-untyped-call]
    _, height, width = config["input_size"]
    if height != width or config["crop_mode"] not in ("center", "squash"):
        raise RequestError(
            f"{where}: its data config asks for a {height} × {width} input and crop mode {config['crop_mode']!r}; "
            "supported: square inputs, center and squash"
        )
    from pydantic import ValidationError

    try:
        return Preprocessing(
            resize=math.floor(height / config["crop_pct"]),
            resize_mode="shortest" if config["crop_mode"] == "center" else "squash",
            crop=height,
            interpolation=config["interpolation"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )
    except ValidationError as error:
        raise RequestError(f"{where}: its data config: {first_problem(error)}") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise RequestError(f"{where}: its data config: {one_line(error)}") from None


def timm_filter(arch: str, tensors: dict[str, Any], network: Any) -> Mapping[str, Any]:
    """Returns tensors under the names of an architecture of timm: as they are, or by timm's own filter.

    Args:
        arch: timm's name, without a tag.
        tensors: as the file has them.
        network: of this architecture.
    """
    if set(network.state_dict()) <= set(tensors):
        return tensors
    module = sys.modules[timm.model_entrypoint(arch).__module__]
    filter_fn = getattr(module, "checkpoint_filter_fn", None)
    if filter_fn is None:
        return tensors
    renamed: Mapping[str, Any] = filter_fn(tensors, network)
    return renamed
