"""A transform of torchvision or timm as the settings that a record can hold, and that can be done again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.settings import Preprocessing
from massl_bench.core.strict import first_problem


def preprocessing_of(transform: Any) -> Preprocessing:
    """Returns a transform as the settings that a record can hold.

    Known are a `Preprocessing`; torchvision's `Compose` (v1 or v2) of Resize, CenterCrop, ToTensor (or ToImage and
    ToDtype with its scale) and Normalize, as timm's evaluation transforms are too; and what torchvision's weights bring
    as `transforms()`.

    Raises:
        RequestError: It is none of these: what an image goes through could not be said in a record, nor be done again.
    """
    if isinstance(transform, Preprocessing):
        return transform
    if transform is None:
        raise RequestError(
            "transform: say how images are prepared: a torchvision Compose of Resize, CenterCrop, "
            "ToTensor and Normalize, or massl_bench.Preprocessing(...)"
        )
    if all(hasattr(transform, name) for name in ("resize_size", "crop_size", "interpolation", "mean", "std")):
        return _of_weights(transform)
    steps = getattr(transform, "transforms", None)
    if steps is None:
        raise _unknown(transform)
    return _of_steps(list(steps))


def _of_weights(transform: Any) -> Preprocessing:
    try:
        (resize,), (crop,) = transform.resize_size, transform.crop_size
    except (TypeError, ValueError):
        raise _unknown(transform) from None
    return _checked(
        resize=resize,
        resize_mode="shortest",
        crop=crop,
        interpolation=transform.interpolation.value,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


_TO_UNIT_RANGE = ("ToTensor", "MaybeToTensor", "ConvertImageDtype", "ToDtype")
"""Steps after which the values of a pixel are in [0, 1]."""

_TO_TENSOR = ("PILToTensor", "MaybePILToTensor", "ToImage", "ToPureTensor")

_ORDER = ("Resize", "CenterCrop", "values in [0, 1]", "Normalize")
"""Resized as a PIL image: a tensor is resized with other roundings."""


def _of_steps(steps: Iterable[Any]) -> Preprocessing:
    """Returns the settings of a Compose's steps, which must come in this order."""
    found: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    order: list[str] = []
    for step in steps:
        kind = type(step).__name__
        if kind in _TO_TENSOR or (kind in _TO_UNIT_RANGE and getattr(step, "scale", True)):
            order += [_ORDER[2]] if order[-1:] != [_ORDER[2]] else []
            found["scaled"] = found.get("scaled", False) or kind in _TO_UNIT_RANGE
        elif kind == "Resize":
            order.append(kind)
            found |= _resize(step)
        elif kind == "CenterCrop":
            order.append(kind)
            found["crop"] = _side(step.size, step)
        elif kind == "Normalize":
            order.append(kind)
            found["mean"], found["std"] = (tuple(float(v) for v in _list(getattr(step, n))) for n in ("mean", "std"))
        else:
            raise _unknown(step)
    return _checked(**_complete(found, order))


def _complete(found: dict[str, Any], order: Sequence[str]) -> dict[str, Any]:
    """Returns the settings of a `Preprocessing`; raises where steps are missing, twice, or in another order."""
    if list(order) != sorted(set(order), key=_ORDER.index) or "Resize" not in order or not found.pop("scaled", False):
        raise RequestError(
            "transform: expected Resize, CenterCrop, ToTensor (or ToImage and ToDtype with scale=True), "
            f"Normalize in this order, found {', '.join(order) or 'none of them'}"
        )
    if found["resize_mode"] == "squash":
        found.setdefault("crop", found["resize"])
    if "crop" not in found:
        raise RequestError("transform: images must have one size: add CenterCrop, or Resize((n, n))")
    return found


def _resize(step: Any) -> dict[str, Any]:
    size = step.size
    pair = list(size) if isinstance(size, tuple | list) else [size]
    if getattr(step, "max_size", None) is not None or (len(pair) == 2 and pair[0] != pair[1]) or len(pair) > 2:
        raise _unknown(step)
    if getattr(step, "antialias", True) is False:
        raise _unknown(step)
    mode = "squash" if len(pair) == 2 else "shortest"
    return {"resize": int(pair[0]), "resize_mode": mode, "interpolation": _interpolation(step)}


def _interpolation(step: Any) -> str:
    value = step.interpolation
    return str(getattr(value, "value", value)).lower()


def _side(size: Any, step: Any) -> int:
    pair = list(size) if isinstance(size, tuple | list) else [size, size]
    if len(set(pair)) != 1:
        raise _unknown(step)
    return int(pair[0])


def _list(value: Any) -> list[float]:
    return value.flatten().tolist() if isinstance(value, Tensor) else list(value)


def _checked(**settings: Any) -> Preprocessing:
    try:
        return Preprocessing(**settings)
    except ValidationError as error:
        raise RequestError(f"transform: {first_problem(error)}") from None


def _unknown(step: Any) -> RequestError:
    return RequestError(
        f"transform: {one_line(step)} is none of the steps that a record can hold and that can be done "
        "again (Resize, CenterCrop, ToTensor, Normalize); give massl_bench.Preprocessing(...), or extract features "
        "yourself and evaluate the arrays"
    )
