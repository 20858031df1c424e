"""Spectrum measures of features whose answers are known in closed form."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from massl_bench.core.errors import CellError, RequestError
from massl_bench.metrics.spectrum import alpha_req, products, rank_me, rank_me_interval, uniformity
from massl_bench.protocols import spectrum
from tests.protocols.banks import evaluation, params_of

PARAMS = params_of(spectrum, "spectrum")


def run(features: Any, params: Any = PARAMS, role: str = "train") -> Any:
    return spectrum.run(evaluation(**{role: (features,)}), params, np.random.default_rng(0))  # type: ignore[arg-type]


def test_rankme_of_equal_singular_values_is_their_number() -> None:
    features = np.zeros((80, 16))
    features[np.arange(80), np.arange(80) % 8] = 3.0  # eight equal singular values, eight of zero
    scores = run(features, PARAMS.model_copy(update={"alpha_first": 1, "alpha_last": 7}))
    assert scores["rankme"].value == pytest.approx(8, rel=1e-4)


def test_rankme_is_the_definition_on_the_singular_values(single_label: dict[str, NDArray[Any]]) -> None:
    features = single_label["train_features"]
    singular = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    share = singular / singular.sum() + 1e-7
    assert run(features)["rankme"].value == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-6)


def test_the_interval_of_rankme_is_as_wide_as_the_spread_over_samples() -> None:
    def sample(seed: int) -> tuple[float, float]:
        rng = np.random.default_rng(seed)
        features = rng.standard_normal((400, 24)) / np.arange(1, 25) + 0.3
        score = run(features)["rankme"]
        low, high = score.ci95
        assert low < score.value < high
        return score.value, (high - low) / (2 * 1.96)

    values, errors = np.array([sample(seed) for seed in range(30)]).T
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.2)
    assert (abs(values - values.mean()) < 1.96 * errors).mean() > 0.85


def test_the_interval_of_few_items_of_which_most_are_zero() -> None:
    features = np.zeros((6, 5), dtype=np.float32)
    features[0, 0] = 1
    found = products(features)
    low, high = rank_me_interval(features, found, 1e-7, groups=20, rng=np.random.default_rng(0))
    assert low <= rank_me(found.gram_SS, 1e-7) <= high


def test_the_smaller_side_has_the_singular_values_of_the_definition(rng: np.random.Generator) -> None:
    features = (rng.standard_normal((60, 200)) * np.geomspace(1, 0.1, 200) + 0.2).astype(np.float32)
    singular = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    assert len(singular) == 60
    share = singular / singular.sum() + 1e-7
    assert run(features)["rankme"].value == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-9)
    covariance = np.cov(features.T.astype(np.float64), bias=True)
    assert run(features)["alpha_req"].value == pytest.approx(alpha_req(covariance, 3, 100), rel=1e-9)


@pytest.mark.parametrize("count", [15, 52, 300])
def test_the_jackknife_leaves_groups_out_of_the_features(rng: np.random.Generator, count: int) -> None:
    features = (rng.standard_normal((count, 50)) + 0.2).astype(np.float32)
    groups = np.array_split(np.random.default_rng(1).permutation(count), 15)
    left = [products(np.delete(features, group, axis=0)).gram_SS for group in groups]
    values = np.array([rank_me(gram, 1e-7) for gram in left])
    found = products(features)
    low, high = rank_me_interval(features, found, 1e-7, groups=15, rng=np.random.default_rng(1))
    assert (high - low) / (2 * 1.96) == pytest.approx(np.sqrt(14 * values.var()), rel=1e-9)
    assert (high + low) / 2 == pytest.approx(rank_me(found.gram_SS, 1e-7), rel=1e-12)


def test_few_items_of_many_dimensions_are_quick(rng: np.random.Generator) -> None:
    features = rng.standard_normal((200, 3072)).astype(np.float32)
    seconds = []
    for _ in range(3):  # others may run beside it
        start = time.perf_counter()
        assert 100 < run(features)["rankme"].value < 200
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.7])
def test_alpha_req_recovers_a_power_law(alpha: float) -> None:
    eigenvalues = np.arange(1.0, 121) ** -alpha
    assert alpha_req(np.diag(eigenvalues), 3, 100) == pytest.approx(alpha, abs=1e-9)


def test_uniformity_of_the_corners_of_a_cross() -> None:
    # ±e1, ±e2: of the three other corners two are at squared distance 2, one at 4.
    corners = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], dtype=np.float32)
    assert uniformity(corners) == pytest.approx(np.log((2 * np.exp(-4) + np.exp(-8)) / 3), rel=1e-5)


def test_alignment_of_pairs_at_a_known_angle() -> None:
    base = np.linspace(0, 2 * np.pi, 6, endpoint=False)
    angles = np.concatenate([base, base + 0.1])
    features = np.zeros((12, 5))
    features[:, 0], features[:, 1] = np.cos(angles), np.sin(angles)
    features[:, 2:] = 1e-3 * np.random.default_rng(0).standard_normal((12, 3))
    scores = run(features, PARAMS.model_copy(update={"alpha_first": 1, "alpha_last": 4}))
    assert scores["alignment"].value == pytest.approx(2 - 2 * np.cos(0.1), abs=1e-4)


def test_metamorphic(single_label: dict[str, NDArray[Any]], rng: np.random.Generator) -> None:
    features = single_label["train_features"]
    base = run(features)
    for changed in (features * 32, features[rng.permutation(len(features))]):
        for name, score in run(changed).items():
            assert score.value == pytest.approx(base[name].value, rel=1e-5), name
    assert {name: score.value for name, score in run(features, role="all").items()} == {
        name: score.value for name, score in base.items()
    }


def test_bad_input(rng: np.random.Generator) -> None:
    with pytest.raises(CellError, match="all 4 feature dimensions are constant over the 9 images"):
        run(np.ones((9, 4)))
    with pytest.raises(RequestError, match="at least two images are needed, found 1"):
        run(np.ones((1, 4)))
    with pytest.raises(CellError, match="alpha_req: 4 eigenvalues above rounding; at least 5 are needed"):
        run(rng.standard_normal((50, 4)))
