"""What tests of layouts share: each layout's file, made once in a session and only read."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.models.layouts import Made, layouts


@pytest.fixture(scope="session")
def layout_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """Returns a layout's file by the layout's name."""
    made: dict[str, Made] = {}

    def of(name: str) -> Made:
        if name not in made:
            made[name] = layouts()[name].make(tmp_path_factory.mktemp(name))
        return made[name]

    return of
