"""Retrieval among distractors is retrieval in the database that holds them, and reads them piece by piece."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from massl_bench.core.errors import RequestError
from massl_bench.core.values import EvaluationData, QueryTruth
from massl_bench.learners import neighbours
from massl_bench.protocols import retrieval, retrieval_distractors
from tests.protocols.banks import evaluation, params_of

PARAMS = params_of(retrieval_distractors, "retrieval-1m")
QUERIES, ROWS, DISTRACTORS, DIM = 9, 60, 3000, 16

Rows = NDArray[np.float32]


def drawn(seed: int) -> tuple[Rows, Rows, Rows, list[QueryTruth]]:
    """Queries near some rows of the database; distractors of which some are copies of these rows."""
    rng = np.random.default_rng(seed)
    database, distractors = (rng.standard_normal((count, DIM)).astype(np.float32) for count in (ROWS, DISTRACTORS))
    queries = (database[:QUERIES] + rng.standard_normal((QUERIES, DIM))).astype(np.float32)
    distractors[rng.integers(DISTRACTORS, size=40)] = database[rng.integers(ROWS, size=40)]
    roles = [rng.permutation(ROWS) for _ in range(QUERIES)]
    truth = [QueryTruth(easy=each[:4], hard=each[4:9], junk=each[9:15]) for each in roles]
    return queries, database, distractors, truth


def data_of(queries: Rows, database: Rows, distractors: Rows | None, truth: list[QueryTruth]) -> EvaluationData:
    if distractors is None:
        found = evaluation(queries=(queries,), database=(database,))
    else:
        found = evaluation(queries=(queries,), database=(database,), distractors=(distractors,))
    return replace(found, ground_truth=truth)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("together", [7 * 4 * DIM, 1 << 26])
def test_it_is_retrieval_in_the_larger_database(seed: int, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of a row come behind it, as their numbers are larger; nothing depends on where the pieces end."""
    monkeypatch.setattr(neighbours, "_DATABASE_CHUNK_BYTES", together)
    queries, database, distractors, truth = drawn(seed)
    whole = np.concatenate([database, distractors])
    expected = retrieval.run(data_of(queries, whole, None, truth), PARAMS, np.random.default_rng(0))
    found = retrieval_distractors.run(data_of(queries, database, distractors, truth), PARAMS, np.random.default_rng(0))
    assert {name: (score.value, score.ci95) for name, score in found.items()} == {
        name: (score.value, score.ci95) for name, score in expected.items()
    }
    assert found["map_medium"].value < 0.9
    assert {score.details["distractors"] for score in found.values()} == {DISTRACTORS}


def test_by_hand() -> None:
    """The positives lie at 0.2 and 0.4 of the query: two distractors before the second one, one of them its equal."""
    angles = np.array([0.1, 0.2, 0.4], dtype=np.float32)
    others = np.array([0.3, 0.4, 1.0, 0.35], dtype=np.float32)
    database, distractors = (np.stack([np.cos(each), np.sin(each)], axis=1) for each in (angles, others))
    queries = np.array([[1, 0]], dtype=np.float32)
    found = neighbours.num_more_similar(queries, database, [np.array([2, 1, 0])], distractors)
    assert [each.tolist() for each in found] == [[2, 0, 0]]
    truth = [QueryTruth(easy=np.array([1]), hard=np.array([2]), junk=np.array([0]))]
    scores = retrieval_distractors.run(data_of(queries, database, distractors, truth), PARAMS, np.random.default_rng(0))
    assert scores["map_easy"].value == 1
    # Without the first one, the positives have the ranks 0 and 3: (1 + 1)/2 and (1/3 + 2/4)/2, halved.
    assert scores["map_medium"].value == pytest.approx((1 + (1 / 3 + 1 / 2) / 2) / 2)


def test_equal_distractors_of_another_length_are_equal() -> None:
    """float32 rounds them otherwise; settled in float64, they are as similar as the positive, and come behind it."""
    rng = np.random.default_rng(3)
    queries, row = rng.standard_normal((1, 384)).astype(np.float32), rng.standard_normal((1, 384)).astype(np.float32)
    distractors = np.concatenate([row * np.float32(2.0) ** power for power in range(-8, 8)])
    assert neighbours.num_more_similar(queries, row, [np.array([0])], distractors)[0].tolist() == [0]


def test_no_distractors_is_said_before_work() -> None:
    sizes = {"database": 3, "distractors": 0, "queries": 1}
    with pytest.raises(RequestError, match="distractors"):
        retrieval_distractors.check_sizes(PARAMS, sizes)
