"""Retrieval and copy detection: the official scripts' numbers, and rankings worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.values import CopyTruth, EvaluationData, QueryTruth
from massl_bench.metrics import micro_average, ranking
from massl_bench.metrics.intervals import mean_interval
from massl_bench.metrics.micro_average import micro_average_precision
from massl_bench.metrics.ranking import trapezoid_average_precision
from massl_bench.protocols import class_retrieval, copy_detection, retrieval
from massl_bench.protocols.shared import checks
from tests.conftest import GOLDEN
from tests.protocols.banks import evaluation, params_of

PARAMS = params_of(retrieval, "retrieval")
CLASS = params_of(class_retrieval, "class-retrieval")
COPY = params_of(copy_detection, "copy-detection")
TOP20 = params_of(copy_detection, "copy-detection-top20")


def truth_of(*queries: dict[str, Any]) -> list[QueryTruth]:
    return [
        QueryTruth(**{name: np.array(query[name], dtype=np.int64) for name in ("easy", "hard", "junk")})
        for query in queries
    ]


@pytest.fixture
def landmarks() -> EvaluationData:
    with np.load(GOLDEN / "features_retrieval.npz") as arrays:
        data = evaluation(database=(arrays["database"],), queries=(arrays["queries"],))
    truth = truth_of(*json.loads((GOLDEN / "retrieval_ground_truth.json").read_text()))
    return replace(data, ground_truth=truth)


@pytest.fixture
def copies() -> EvaluationData:
    with np.load(GOLDEN / "features_copy_detection.npz") as arrays, np.load(GOLDEN / "features_whitening.npz") as other:
        data = evaluation(
            originals=(arrays["originals"],),
            distractors=(arrays["distractors"],),
            queries=(arrays["queries"],),
            whitening=(other["whitening"],),
        )
        original = arrays["query_original"]
    return replace(data, ground_truth=CopyTruth(original=original, block=np.full(len(original), "strong")))


def without(data: EvaluationData, role: str) -> EvaluationData:
    return replace(data, banks={name: bank for name, bank in data.banks.items() if name != role})


def test_retrieval_golden(landmarks: EvaluationData, expected: Any, rng: np.random.Generator) -> None:
    scores = retrieval.run(landmarks, PARAMS, rng)
    for setting, golden in expected["retrieval"].items():
        score = scores[f"map_{setting}"]
        assert score.value == pytest.approx(golden["map"], abs=1e-6)
        assert score.details["queries_left_out"] == golden["empty_queries"]
        for k, value in zip((1, 5, 10), golden["mp_at_1_5_10"], strict=True):
            assert scores[f"mp@{k}_{setting}"].value == pytest.approx(value, abs=1e-6)
        low, high = score.ci95
        assert low < score.value < high


def test_retrieval_by_hand(rng: np.random.Generator) -> None:
    # One query along the first axis; the rows turn away from it, so that the ranking is 0, 1, 2, 3.
    angles = np.array([0.1, 0.2, 0.3, 0.4])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    data = evaluation(database=(rows,), queries=(np.array([[1.0, 0.0]]),))
    data = replace(data, ground_truth=truth_of({"easy": [1], "hard": [3], "junk": [0]}))
    scores = retrieval.run(data, PARAMS, rng)
    # Easy: 0 and 3 are ignored, 1 comes first. Medium: 1, 2, 3 are left, positives at ranks 0 and 2:
    # (½ · (1 + 1) + ½ · (1/2 + 2/3)) / 2. Hard: 2, 3 are left, the positive at rank 1: ½ · (0 + 1/2).
    assert scores["map_easy"].value == 1.0
    assert scores["map_medium"].value == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    assert scores["map_hard"].value == pytest.approx(0.25)
    assert scores["mp@10_medium"].value == pytest.approx(2 / 3)  # of min(10, 3), the rank of the last positive
    assert scores["mp@1_hard"].value == 0.0


@pytest.mark.parametrize("change", ["permute database", "scale"])
def test_retrieval_metamorphic(change: str, landmarks: EvaluationData, rng: np.random.Generator) -> None:
    base = retrieval.run(landmarks, PARAMS, np.random.default_rng(0))
    database, queries = landmarks.banks["database"].features, landmarks.banks["queries"].features
    truth = landmarks.ground_truth
    if change == "scale":
        changed = evaluation(database=(database * 8,), queries=(queries / 4,))
    else:
        order = rng.permutation(len(database))
        place = np.argsort(order)
        changed = evaluation(database=(database[order],), queries=(queries,))
        truth = [QueryTruth(easy=place[query.easy], hard=place[query.hard], junk=place[query.junk]) for query in truth]
    scores = retrieval.run(replace(changed, ground_truth=truth), PARAMS, np.random.default_rng(0))
    assert scores == base


def test_a_setting_without_positives_is_left_out(landmarks: EvaluationData, rng: np.random.Generator) -> None:
    without_hard = [replace(query, hard=query.hard[:0]) for query in landmarks.ground_truth]
    base = retrieval.run(landmarks, PARAMS, np.random.default_rng(0))
    scores = retrieval.run(replace(landmarks, ground_truth=without_hard), PARAMS, np.random.default_rng(0))
    assert set(scores) == {name for name in base if not name.endswith("_hard")}
    assert {score.details["settings_left_out"] for score in scores.values()} == {"hard"}
    assert not any("settings_left_out" in score.details for score in base.values())


def test_a_duplicate_comes_after_the_image_of_lower_index(rng: np.random.Generator) -> None:
    """The best image and its duplicate, far behind it: whichever is the positive, the ranking is the same."""
    for _ in range(40):
        query = rng.standard_normal((1, 37))
        rows = rng.standard_normal((103, 37))
        rows[0] = rows[102] = 3 * query + 0.01 * rng.standard_normal(37)
        data = evaluation(database=(rows,), queries=(query,))
        first, last = (
            retrieval.run(replace(data, ground_truth=truth_of({"easy": [row], "hard": [5], "junk": []})), PARAMS, rng)
            for row in (0, 102)
        )
        assert first["map_easy"].value == 1.0
        assert last["map_easy"].value == 0.25  # at rank 1: ½ · (0 + ½)


def test_retrieval_bad_input(landmarks: EvaluationData, rng: np.random.Generator) -> None:
    with pytest.raises(RequestError, match="needs a ground truth"):
        retrieval.run(replace(landmarks, ground_truth=None), PARAMS, rng)
    with pytest.raises(RequestError, match="of 13 queries, and there are 14"):
        retrieval.run(replace(landmarks, ground_truth=landmarks.ground_truth[1:]), PARAMS, rng)
    wrong = truth_of({"easy": [180], "hard": [], "junk": []})
    with pytest.raises(RequestError, match="query 0: easy names image 180, which is not there; allowed: 0 to 179"):
        retrieval.run(replace(landmarks, ground_truth=wrong + landmarks.ground_truth[1:]), PARAMS, rng)
    nothing = truth_of(*[{"easy": [], "hard": [], "junk": [1]}] * 14)
    with pytest.raises(CellError, match="none of the 14 queries has a positive"):
        retrieval.run(replace(landmarks, ground_truth=nothing), PARAMS, rng)


def test_copy_detection_golden(copies: EvaluationData, expected: Any, rng: np.random.Generator) -> None:
    plain = copy_detection.run(without(copies, "whitening"), TOP20, rng)
    assert plain["map_strong"].value == pytest.approx(expected["copy_detection"]["map"], abs=1e-6)
    whitened = copy_detection.run(copies, TOP20, rng)
    assert whitened["map_strong"].value == pytest.approx(expected["copy_detection_whitened"]["map"], abs=1e-6)
    assert whitened["map_strong"].details == {"distractors": 200, "whitening": "learned on 500 images"}


def test_the_whole_ranking_adds_what_lies_behind_rank_20(
    copies: EvaluationData, expected: Any, rng: np.random.Generator
) -> None:
    aps = np.array(expected["copy_detection"]["aps"])
    full = copy_detection.run(without(copies, "whitening"), COPY, rng)["map_strong"].value
    hidden = (aps == 0).sum()
    assert hidden > 0
    assert 0 < full - aps.mean() < hidden / len(aps) * 0.5 / 21


def test_copy_detection_by_hand(rng: np.random.Generator) -> None:
    originals, distractors = np.eye(3)[:2], np.eye(3)[2:]
    # Query 0 finds its original first (0.8); query 1 finds the distractor first, its original second (0.6).
    queries = np.array([[0.8, 0.6, 0.0], [0.0, 0.6, 0.8], [0.28, 0.0, 0.96]])
    data = evaluation(originals=(originals,), distractors=(distractors,), queries=(queries,))
    truth = CopyTruth(original=np.array([0, 1, -1]), block=np.array(["strong", "crops/10", "crops/10"]))
    scores = copy_detection.run(replace(data, ground_truth=truth), COPY, rng)
    assert scores["map_strong"].value == 1.0
    assert scores["map_crops_10"].value == pytest.approx(0.25)
    assert scores["map_crops_10"].details["queries_left_out"] == 1
    # All pairs: .96 (wrong), .8 twice (one right), .6 twice (one right): ½ · 1/3 + ½ · 2/5.
    assert scores["micro_ap"].value == pytest.approx(0.5 / 3 + 0.5 * 2 / 5, abs=1e-6)


def test_micro_average_precision_is_scikit_learns(copies: EvaluationData, rng: np.random.Generator) -> None:
    from sklearn.metrics import average_precision_score

    data = without(copies, "whitening")
    unit = {
        role: bank.features / np.linalg.norm(bank.features, axis=1, keepdims=True) for role, bank in data.banks.items()
    }
    pairs = unit["queries"] @ np.concatenate([unit["originals"], unit["distractors"]]).T
    true = np.zeros(pairs.shape, dtype=bool)
    true[np.arange(60), data.ground_truth.original] = True
    ours = copy_detection.run(data, COPY, rng)["micro_ap"].value
    assert ours == pytest.approx(average_precision_score(true.ravel(), pairs.ravel()), abs=1e-6)


@pytest.mark.parametrize("sparse_cost", [0.0, 12, 1e9])
def test_the_interval_of_micro_ap_is_a_bootstrap_over_the_queries(
    sparse_cost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.metrics import average_precision_score

    monkeypatch.setattr(micro_average, "_SPARSE_COST", sparse_cost)  # all thresholds sparse, some, none
    monkeypatch.setattr(micro_average, "_SOME", 25)
    rng = np.random.default_rng(3)
    scores = np.round(rng.standard_normal((50, 20)), 1).astype(np.float32)  # with equal ones
    original = rng.integers(-1, 20, size=50)
    found = original >= 0
    scores[found, original[found]] += 2
    true = np.arange(20) == original[:, None]
    pieces = [(slice(0, 30), scores[:30]), (slice(30, 50), scores[30:])]
    own = scores[np.arange(50), original]
    measured = micro_average_precision(own, found, pieces, resamples=60, rng=np.random.default_rng(0))

    def average_precision(weights: NDArray[Any]) -> float:
        return average_precision_score(true.ravel(), scores.ravel(), sample_weight=np.repeat(weights, 20))

    resampled = np.random.default_rng(0).multinomial(50, np.full(50, 1 / 50), 60)
    draws = np.array([average_precision(weights) for weights in resampled])
    value = average_precision(np.ones(50))
    assert measured.value == pytest.approx(value, abs=1e-9)
    assert measured.ci95 == pytest.approx(value + np.quantile(draws, (0.025, 0.975)) - draws.mean(), abs=1e-6)
    assert measured.ci95[0] < value < measured.ci95[1]


def resampled_plainly(own: NDArray[Any], found: NDArray[Any], scores: NDArray[Any], resamples: int) -> NDArray[Any]:
    """The AP of each resample: all its weights times the pairs that reach each threshold, in single precision."""
    thresholds = np.unique(own[found])[::-1]
    at_least = (scores[:, :, None] >= thresholds).sum(axis=1)
    first = np.diff(at_least, axis=1, prepend=0)
    queries = len(own)
    drawn = np.random.default_rng(0).multinomial(queries, np.full(queries, 1 / queries), resamples)
    true = np.stack([drawn[:, found & (own == score)].sum(axis=1) for score in thresholds], axis=1).astype(np.float32)
    precision = np.cumsum(true, axis=1) / np.maximum(np.cumsum(drawn @ first, axis=1).astype(np.float32), 1)
    area = np.ascontiguousarray((true * precision)[:, ::-1]).sum(axis=1) / np.maximum(true.sum(axis=1), 1)
    return area[true.any(axis=1)].astype(np.float64)


@pytest.mark.parametrize(
    ("queries", "rows", "some", "block", "sparse_cost"),
    [(40, 30, 250, 1 << 22, 4), (40, 30, 7, 150, 4), (90, 3, 16, 1, 1e9), (3, 200, 64, 300, 0.0), (1, 5, 50, 5, 4)],
)
def test_resamples_of_micro_ap_are_those_of_the_plain_sum_to_the_last_bit(
    queries: int, rows: int, some: int, block: int, sparse_cost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"_SOME": some, "_BLOCK": block, "_SPARSE_COST": sparse_cost, "_TOGETHER": 5}.items():
        monkeypatch.setattr(micro_average, name, value)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        scores = rng.standard_normal((queries, rows)).astype(np.float32).round(seed % 3)  # from many equal ones to few
        original = rng.integers(-1 if queries > 1 else 0, rows, size=queries)
        own, found = scores[np.arange(queries), original], original >= 0
        if not found.any():
            continue
        cut = queries // 3
        pieces = [(slice(0, cut), scores[:cut]), (slice(cut, queries), scores[cut:])]
        measured = micro_average_precision(own, found, pieces, resamples=50, rng=np.random.default_rng(0))
        assert measured.resampled is not None
        np.testing.assert_array_equal(measured.resampled.values, resampled_plainly(own, found, scores, 50))


def test_pairs_that_16_bits_cannot_count_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three thresholds the middle one is reached first by 60,000 pairs, the others by few."""
    monkeypatch.setattr(micro_average, "_SPARSE_COST", 0.0)
    scores = np.full((20, 3_000), 0.5, np.float32)
    scores[:7, 0], scores[13:] = 0.75, 0.25
    own, found = scores[:, 0], np.ones(20, bool)
    for held in (1 << 25, 0):  # added up at the end, and block by block
        monkeypatch.setattr(micro_average, "_HELD", held)
        monkeypatch.setattr(micro_average, "_BLOCK", 3_000 * 11)
        measured = micro_average_precision(
            own, found, [(slice(0, 20), scores)], resamples=40, rng=np.random.default_rng(0)
        )
        assert measured.resampled is not None
        np.testing.assert_array_equal(measured.resampled.values, resampled_plainly(own, found, scores, 40))


def test_ranks_are_the_places_in_a_stable_ranking() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 300):
        scores = rng.choice(np.array([-1, -0.0, 0.0, 0.25, 1], np.float32), count)  # with many equal ones
        place = np.empty(count, dtype=np.int64)
        place[np.argsort(-scores, kind="stable")] = np.arange(count)
        rows = rng.permutation(count)[: 1 + count // 2]
        assert ranking.ranks_of(scores, rows).tolist() == place[rows].tolist()
        assert ranking.ranks_of(scores, rows[:0]).tolist() == []


def test_perfect_copies_are_found(rng: np.random.Generator) -> None:
    originals = rng.standard_normal((20, 8))
    data = evaluation(originals=(originals,), queries=(originals * 2,))
    truth = CopyTruth(original=np.arange(20), block=np.full(20, "strong"))
    scores = copy_detection.run(replace(data, ground_truth=truth), COPY, rng)
    assert {(score.value, score.ci95) for score in scores.values()} == {(1.0, (1.0, 1.0))}


def test_copy_detection_bad_input(copies: EvaluationData, rng: np.random.Generator) -> None:
    truth = copies.ground_truth
    wrong = replace(copies, ground_truth=replace(truth, original=np.full(60, 30)))  # type: ignore[type-var]
    with pytest.raises(RequestError, match=r"query 0 is said to be a copy of original 30, .*allowed: 0 to 29"):
        copy_detection.run(wrong, COPY, rng)
    wrong = replace(copies, ground_truth=replace(truth, original=np.full(60, -1)))  # type: ignore[type-var]
    with pytest.raises(CellError, match="no query of the block strong is a copy of an original"):
        copy_detection.run(wrong, COPY, rng)


def test_class_retrieval_by_hand(rng: np.random.Generator) -> None:
    # On a circle at 0°, 10°, 25°, 60°, 70°…: classes a a b a b, and one item alone in its class.
    angles = np.radians([0, 10, 25, 60, 72, 180])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = np.array([0, 0, 1, 0, 1, 2])
    params = CLASS.model_copy(update={"recall_at": (1, 2)})
    scores = class_retrieval.run(evaluation(3, test=(features, labels)), params, rng)
    # Neighbours (R best), relevance: 0: 1 2 → 1 0: AP@2 = ½. 1: 0 2 → 1 0: ½. 2: 1 → 0. 3: 4 2 → 0 0: 0. 4: 3 → 0: 0.
    assert scores["map@r"].value == pytest.approx((0.5 + 0.5) / 5)
    assert scores["recall@1"].value == pytest.approx(2 / 5)
    # Two nearest: 2: 1 0 → none; 3: 4 2 → none; 4: 3 2 → 2 is of its class.
    assert scores["recall@2"].value == pytest.approx(3 / 5)
    assert scores["map@r"].details == {"queries_left_out": 1}


def test_class_retrieval_with_duplicates_and_relabelling(rng: np.random.Generator) -> None:
    features = np.repeat(rng.standard_normal((4, 5)), 6, axis=0)
    labels = np.repeat(np.arange(4), 6)
    params = CLASS.model_copy(update={"recall_at": (1, 5)})
    scores = class_retrieval.run(evaluation(4, test=(features, labels)), params, rng)
    assert {score.value for score in scores.values()} == {1.0}
    assert not (
        class_retrieval._others(features.astype(np.float32), 3, evaluation().backend) == np.arange(24)[:, None]
    ).any()
    features, names = rng.standard_normal((80, 5)), rng.permutation(4)
    labels = np.arange(80) % 4
    base = class_retrieval.run(evaluation(4, test=(features, labels)), CLASS, np.random.default_rng(0))
    changed = class_retrieval.run(evaluation(4, test=(features * 4, names[labels])), CLASS, np.random.default_rng(0))
    assert base == changed


def test_class_retrieval_bad_input(rng: np.random.Generator) -> None:
    features = rng.standard_normal((12, 3))
    with pytest.raises(RequestError, match="among the 10 nearest asked of 9 test images; at least 11"):
        class_retrieval.run(evaluation(3, test=(features[:9], np.arange(9) % 3)), CLASS, rng)
    with pytest.raises(CellError, match="no class has two test images"):
        class_retrieval.run(evaluation(12, test=(features, np.arange(12))), CLASS, rng)


def constant(data: EvaluationData) -> EvaluationData:
    return replace(data, banks={role: replace(b, features=np.ones_like(b.features)) for role, b in data.banks.items()})


def test_constant_features(landmarks: EvaluationData, copies: EvaluationData, rng: np.random.Generator) -> None:
    text = "feature dimensions are constant over the {}: the model gives every image the same features"
    with pytest.raises(CellError, match=text.format("180 database images")):
        retrieval.run(constant(landmarks), PARAMS, rng)
    with pytest.raises(CellError, match=text.format("230 database images")):
        copy_detection.run(constant(copies), COPY, rng)
    with pytest.raises(CellError, match=text.format("12 test images")):
        class_retrieval.run(evaluation(3, test=(np.ones((12, 4)), np.arange(12) % 3)), CLASS, rng)


def test_one_row_that_differs_is_not_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_CHUNK", 4)
    features = np.ones((10, 3), dtype=np.float32)
    with pytest.raises(CellError, match="all 3 feature dimensions are constant over the 10 images"):
        checks.check_not_constant("images", features)
    features[9, 2] = 0
    checks.check_not_constant("images", features)
    checks.check_not_constant("images", features[:1])  # a single image is no constant


SEEDS = range(20)
ENOUGH = 16
"""So many of 20 intervals of 95 % hold the truth in all but one of 400 cases."""


def test_landmarks_of_perfect_features() -> None:
    places = np.eye(30, 40)
    truth = truth_of(*({"easy": [place], "hard": [place + 30], "junk": [place + 60]} for place in range(30)))
    for seed in SEEDS:
        noise = 0.01 * np.random.default_rng(seed).standard_normal((90, 40))
        data = evaluation(database=(np.tile(places, (3, 1)) + noise,), queries=(places,))
        scores = retrieval.run(replace(data, ground_truth=truth), PARAMS, np.random.default_rng(seed))
        assert {(score.value, score.ci95) for score in scores.values()} == {(1.0, (1.0, 1.0))}


def test_landmarks_of_random_features() -> None:
    """Every set of ranks of the positives is as likely as any other."""

    def chance(num_rows: int, num_positives: int) -> float:
        every = combinations(range(num_rows), num_positives)
        return float(np.mean([trapezoid_average_precision(np.array(ranks)) for ranks in every]))

    expected = {"map_easy": chance(47, 1), "map_medium": chance(48, 2), "map_hard": chance(47, 1)}
    expected |= {"mp@1_easy": 1 / 47, "mp@1_medium": 2 / 48, "mp@1_hard": 1 / 47}
    positives = [(row % 50, (row + 1) % 50) for row in range(4, 124) if not {2, 3} & {row % 50, (row + 1) % 50}]
    truth = truth_of(*({"easy": [easy], "hard": [hard], "junk": [2, 3]} for easy, hard in positives))
    held = dict.fromkeys(expected, 0)
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        data = evaluation(database=(rng.standard_normal((50, 64)),), queries=(rng.standard_normal((len(truth), 64)),))
        scores = retrieval.run(replace(data, ground_truth=truth), PARAMS, rng)
        for name, value in expected.items():
            low, high = scores[name].ci95
            held[name] += low <= value <= high
    assert min(held.values()) >= ENOUGH, held


def test_class_retrieval_of_perfect_features() -> None:
    labels = np.arange(96) % 8
    for seed in SEEDS:
        features = np.eye(8)[labels] + 0.01 * np.random.default_rng(seed).standard_normal((96, 8))
        scores = class_retrieval.run(evaluation(8, test=(features, labels)), CLASS, np.random.default_rng(seed))
        assert {(score.value, score.ci95) for score in scores.values()} == {(1.0, (1.0, 1.0))}


def test_class_retrieval_of_random_features() -> None:
    labels = np.arange(240) % 8
    others, same = 239, 29  # of each item, and those among them of its class
    # The item at rank i is of the class with probability s / o; then so is each before it with (s − 1) / (o − 1).
    rank = np.arange(1, same + 1)
    expected = {
        "map@r": (same / others * (1 + (rank - 1) * (same - 1) / (others - 1)) / rank).mean(),
        "recall@1": same / others,
        "recall@5": 1 - np.prod((others - same - np.arange(5)) / (others - np.arange(5))),
    }
    measured: dict[str, list[Any]] = {name: [] for name in expected}
    held = dict.fromkeys(expected, 0)
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        scores = class_retrieval.run(evaluation(8, test=(rng.standard_normal((240, 64)), labels)), CLASS, rng)
        for name, value in expected.items():
            low, high = scores[name].ci95
            held[name] += low <= value <= high
            measured[name].append(scores[name].value)
    for name, value in expected.items():
        low, high = mean_interval(measured[name])
        assert low <= value <= high, name
    # Two items that find each other count twice: the interval over the queries is narrower than that over data sets.
    assert min(held.values()) >= ENOUGH - 2, held
