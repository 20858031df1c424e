"""Golden features of the official implementations, and a generator."""

import json
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def golden():
    with np.load(GOLDEN / "features_single_label.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def expected():
    return json.loads((GOLDEN / "expected.json").read_text())
