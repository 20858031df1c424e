"""Golden features of the official implementations, and a generator."""

import json

import numpy as np
import pytest

from tests.conftest import GOLDEN


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def single_label():
    with np.load(GOLDEN / "features_single_label.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def expected():
    return json.loads((GOLDEN / "expected.json").read_text())
