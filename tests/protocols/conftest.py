"""Golden features of the official implementations, and a generator."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import GOLDEN


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def single_label() -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN / "features_single_label.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def expected() -> Any:
    return json.loads((GOLDEN / "expected.json").read_text())
