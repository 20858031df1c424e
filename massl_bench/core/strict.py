"""What files hold is checked strictly: the base of every model of a file, and lists in it."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from massl_bench.core.errors import shown
from massl_bench.core.printable import printable


class StrictModel(BaseModel):
    """Base of everything that is read from a file: unknown keys, silent conversions, infinities and NaN are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _as_tuple(value: Any) -> Any:
    """Returns a list or a range as a tuple; what has no order that somebody chose (a set, an iterator) is refused."""
    return tuple(value) if isinstance(value, list | range) else value


Content = TypeVar("Content")
Item = TypeVar("Item")
Some = Annotated[tuple[Item, ...], Field(min_length=1)]
"""One or more; inside `Listed`, so that schemas say of an array how many items it has."""
Listed = Annotated[Content, BeforeValidator(_as_tuple)]
"""A tuple that is a list in TOML and JSON; what is inside it stays strict."""


def first_problem(error: ValidationError) -> str:
    """Returns the first problem of a failed validation as `key: expected …, got …`."""
    problem = error.errors(include_url=False)[0]
    key = printable(".".join(str(part)[:80] for part in problem["loc"][:12]))
    match problem["type"]:
        case "missing":
            text = "is missing"
        case "extra_forbidden":
            text = "is not a known key"
        case "value_error":
            text = printable(str(problem["ctx"]["error"]))
        case _:
            expected = problem["msg"].replace("Input should be", "expected").replace("valid tuple", "list")
            text = f"{expected}, got {shown(problem['input'])}"
    return f"{key}: {text}" if key else text


def _increasing(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if numbers[0] < 1 or any(low >= high for low, high in pairwise(numbers)):
        raise ValueError(f"expected increasing numbers from 1, got {list(numbers)}")
    return numbers


IncreasingNumbers = Annotated[Listed[Some[int]], AfterValidator(_increasing)]
"""Whole numbers from 1, each larger than the one before."""
