"""Tuples that are lists in files; what is inside them is strict."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field, ValidationError

from massl_bench.core.strict import IncreasingNumbers, Listed, StrictModel, first_problem


class Model(StrictModel):
    """A list of whole numbers."""

    k: Listed[tuple[int, ...]]


@pytest.mark.parametrize("value", [[10, 20], (10, 20), range(10, 30, 10)])
def test_lists_and_tuples(value: Any) -> None:
    assert Model(k=value).k == (10, 20)
    assert Model.model_validate_json('{"k": [10, 20]}').k == (10, 20)


def test_an_array_says_how_many_it_has() -> None:
    """`minItems` is of an array, `minLength` of a text: what is checked before must not turn one into the other."""

    class Some(StrictModel):
        """Both ways to say it."""

        first: IncreasingNumbers
        second: Listed[tuple[int, ...]] = Field(min_length=2)

    for mode in ("validation", "serialization"):
        found = Some.model_json_schema(mode=mode)["properties"]
        assert [(each["type"], each["minItems"]) for each in found.values()] == [("array", 1), ("array", 2)]
        assert "minLength" not in str(found)


@pytest.mark.parametrize(
    "value", [{10: 1}, "12", b"12", 1, None, {10, 20}, frozenset({10}), iter([10]), {10: 1}.keys(), {1: 10}.values()]
)
def test_what_is_no_list(value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        Model(k=value)
    assert first_problem(caught.value).startswith("k: expected a list, got ")


@pytest.mark.parametrize("inside", ["1", True, 1.0, [1]])
def test_what_is_inside_stays_strict(inside: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        Model.model_validate({"k": [inside]})
    assert first_problem(caught.value).startswith("k.0: expected a valid integer, got ")
