"""Exact search against brute force, ties, and every backend that runs on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from massl_bench.core.errors import RequestError
from massl_bench.core.values import SearchBackend
from massl_bench.learners import device_neighbours, faiss_backend, neighbours
from massl_bench.learners.cosines import unit_rows

BACKENDS = [SearchBackend("faiss-cpu"), SearchBackend("torch", "cpu")]


def brute_force(queries: np.ndarray, database: np.ndarray, k: int) -> np.ndarray:
    """Indices by higher float64 cosine, then lower index."""

    def unit(rows: np.ndarray) -> np.ndarray:
        rows = rows.astype(np.float64)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return np.argsort(-(unit(queries) @ unit(database).T), axis=1, kind="stable")[:, :k]


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((70, 24), dtype=np.float32), rng.standard_normal((900, 24), dtype=np.float32)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
@pytest.mark.parametrize("k", [1, 20, 899, 900])
def test_equals_brute_force(rows: tuple[np.ndarray, np.ndarray], backend: SearchBackend, k: int) -> None:
    queries, database = rows
    found = neighbours.cosine_neighbours(queries, database, k, backend=backend)
    expected = brute_force(queries, database, k)
    # float32 may swap two rows whose similarities agree to 1e-6; nothing else may differ.
    differ = found.indices_QK != expected
    assert differ.mean() < 1e-3
    unit = database / np.linalg.norm(database, axis=1, keepdims=True)
    own = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    exact = np.take_along_axis(own @ unit.T, expected, 1)
    np.testing.assert_allclose(found.similarities_QK, exact, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_chunks_of_the_database_change_nothing(
    rows: tuple[np.ndarray, np.ndarray], backend: SearchBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, database = rows
    whole = neighbours.cosine_neighbours(queries, database, 50, backend=backend)
    for module, name in ((neighbours, "_DATABASE_CHUNK_BYTES"), (device_neighbours, "_DATABASE_BYTES")):
        monkeypatch.setattr(module, name, 37 * 4 * 24)  # 37 rows, less than k
    pieces = neighbours.cosine_neighbours(queries, database, 50, backend=backend)
    np.testing.assert_array_equal(np.sort(whole.indices_QK), np.sort(pieces.indices_QK))
    np.testing.assert_allclose(whole.similarities_QK, pieces.similarities_QK, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_equal_similarities_are_taken_by_index(backend: SearchBackend) -> None:
    # Axis-aligned rows, so that every similarity is exactly 0 or 1: rows 3, 5, …, 23 equal the query.
    database = np.zeros((24, 4), dtype=np.float32)
    database[:, 0] = 1
    database[3::2] = [0, 1, 0, 0]
    query = np.array([[0, 2, 0, 0]], dtype=np.float32)
    found = neighbours.cosine_neighbours(query, database, 4, backend=backend)
    assert found.indices_QK.tolist() == [[3, 5, 7, 9]]
    # The tie straddles the k-th place among the zeros as well.
    found = neighbours.cosine_neighbours(query, database, 14, backend=backend)
    assert found.indices_QK.tolist() == [[*range(3, 24, 2), 0, 1, 2]]
    assert found.similarities_QK.tolist() == [[1.0] * 11 + [0.0] * 3]


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_constant_features_give_the_first_rows(backend: SearchBackend) -> None:
    same = np.ones((300, 8), dtype=np.float32)
    found = neighbours.cosine_neighbours(same[:5], same, 10, backend=backend)
    assert found.indices_QK.tolist() == [list(range(10))] * 5


def test_rows_of_zeros_are_similar_to_nothing() -> None:
    database = np.array([[0, 0], [1, 0], [-1, 0]], dtype=np.float32)
    found = neighbours.cosine_neighbours(np.array([[3, 0]], dtype=np.float32), database, 3)
    assert found.indices_QK.tolist() == [[1, 0, 2]]
    assert found.similarities_QK.tolist() == [[1.0, 0.0, -1.0]]


def test_a_power_of_two_changes_no_bit(rows: tuple[np.ndarray, np.ndarray]) -> None:
    queries, database = rows
    plain = neighbours.cosine_neighbours(queries, database, 30)
    for factor in (2.0**-100, 2.0**100):  # squares of these overflow and underflow float32
        scaled = neighbours.cosine_neighbours(queries * np.float32(factor), database * np.float32(factor), 30)
        assert (scaled.indices_QK == plain.indices_QK).all()
        assert (scaled.similarities_QK == plain.similarities_QK).all()


def test_bad_requests(rows: tuple[np.ndarray, np.ndarray]) -> None:
    queries, database = rows
    with pytest.raises(RequestError, match="k = 901 neighbours asked of 900"):
        neighbours.cosine_neighbours(queries, database, 901)
    with pytest.raises(RequestError, match="24 dimensions, the database 12"):
        neighbours.cosine_neighbours(queries, database[:, :12], 3)


def test_two_wheels_are_named_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_backend, "installed_faiss", lambda: {"faiss-gpu": "1.15.1", "faiss-cpu": "1.14.0"})
    with pytest.raises(RequestError, match=r"pip uninstall -y faiss-cpu faiss-gpu && pip install faiss-gpu"):
        faiss_backend.check_installation()
    monkeypatch.setattr(faiss_backend, "installed_faiss", dict)
    with pytest.raises(RequestError, match="FAISS is not installed"):
        faiss_backend.check_installation()


def test_the_first_search_notices_two_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    faiss_backend.import_faiss.cache_clear()
    monkeypatch.setattr(faiss_backend, "installed_faiss", lambda: {"faiss-gpu": "1.15.1", "faiss-cpu": "1.14.0"})
    try:
        with pytest.raises(RequestError, match="overwrite each other"):
            neighbours.cosine_neighbours(np.ones((1, 2), np.float32), np.ones((3, 2), np.float32), 1)
    finally:
        faiss_backend.import_faiss.cache_clear()


def test_a_gpu_searches_in_torch() -> None:
    assert faiss_backend.resolve_backend("cuda:7") == SearchBackend("torch", "cuda:7")
    assert faiss_backend.resolve_backend("cpu") == SearchBackend("faiss-cpu")


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_sets_are_exact_where_float32_cannot_tell_rows_apart(backend: SearchBackend) -> None:
    """Similarities within 1e-6 of each other: the sets at every boundary are those of float64."""
    rng = np.random.default_rng(4)
    queries, database = (1 + 0.02 * rng.standard_normal((count, 768)).astype(np.float32) for count in (40, 3000))
    ks = (5, 20, 100)
    exact = brute_force(queries, database, 100)
    found = neighbours.cosine_neighbours(queries, database, 100, boundaries=ks, backend=backend)
    for k in ks:
        assert (np.sort(found.indices_QK[:, :k]) == np.sort(exact[:, :k])).all()


def test_float32_alone_would_be_wrong_there() -> None:
    """The case above is a hard one: the plain product in float32 misses some of the sets."""
    rng = np.random.default_rng(4)
    queries, database = (1 + 0.02 * rng.standard_normal((count, 768)).astype(np.float32) for count in (40, 3000))
    plain = np.argsort(-(unit_rows(queries) @ unit_rows(database).T), axis=1, kind="stable")[:, :100]
    assert (np.sort(plain) != np.sort(brute_force(queries, database, 100))).any()


@pytest.mark.parametrize("held", [True, False], ids=["on the device", "read piece by piece"])
@pytest.mark.parametrize("case", range(12))
def test_a_device_finds_what_faiss_finds(case: int, held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of any size, pieces of any length, near ties, copies, rows of zeros and crowds: the same sets."""
    rng = np.random.default_rng(case)
    dims, count = int(rng.integers(2, 40)), int(rng.integers(40, 3000))
    database = rng.standard_normal((count, dims), dtype=np.float32)
    if case % 3 == 1:  # few different rows: crowds around every boundary
        database = database[rng.integers(0, int(rng.integers(1, 30)), count)]
    if case % 3 == 2:  # all rows nearly the same
        database = np.float32(1) + np.float32(0.01) * database
    database[rng.integers(0, count, 3)] = 0
    queries = np.concatenate(
        [database[:9], rng.standard_normal((30, dims), dtype=np.float32), np.zeros((1, dims), np.float32)]
    )
    k = int(rng.integers(1, count // 2))
    ks = (max(1, k // 3), max(1, k // 2))
    monkeypatch.setattr(device_neighbours, "_SIMILARITY_BYTES", int(rng.integers(1, 40)) * 4 * count)
    monkeypatch.setattr(device_neighbours, "_DATABASE_BYTES", int(rng.integers(count // 4, 2 * count)) * 4 * dims)
    monkeypatch.setattr(neighbours, "_NEIGHBOURS_ON_A_DEVICE", 13 * k)
    monkeypatch.setattr(device_neighbours, "_SETTLED", 7 * dims)
    monkeypatch.setattr(device_neighbours, "_COPIED_BYTES", 50 * 4 * dims)
    if not held:
        monkeypatch.setattr(device_neighbours, "held_on", lambda _, rows: rows)
    found, expected = (
        neighbours.cosine_neighbours(queries, database, k, boundaries=ks, backend=backend) for backend in BACKENDS[::-1]
    )
    np.testing.assert_allclose(found.similarities_QK, expected.similarities_QK, atol=2e-6)
    for boundary in (*ks, k):
        assert (np.sort(found.indices_QK[:, :boundary]) == np.sort(expected.indices_QK[:, :boundary])).all()


def test_no_query_has_no_neighbours() -> None:
    for backend in BACKENDS:
        found = neighbours.cosine_neighbours(
            np.ones((0, 4), np.float32), np.ones((9, 4), np.float32), 2, backend=backend
        )
        assert found.indices_QK.shape == (0, 2)


@pytest.mark.parametrize(("spare_bytes", "held"), [(0, True), (-1, False)])
def test_rows_go_to_a_gpu_with_room_for_three_times_as_many(
    spare_bytes: int, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch keeps there for what comes next is free, and is counted once."""
    rows = np.ones((8, 4), dtype=np.float32)
    unused = 64
    driver = (3 * rows.nbytes - unused + spare_bytes, 1 << 30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: driver)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 100 + unused)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 100)
    monkeypatch.setattr(device_neighbours, "_copied", lambda rows_ND, _: torch.from_numpy(rows_ND))
    assert isinstance(device_neighbours.held_on("cuda:0", rows), torch.Tensor) == held
