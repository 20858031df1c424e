"""Cosine similarities and ranks: equal rows, extreme lengths, ties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from massl_bench.learners import cosines


@pytest.mark.parametrize("num_queries", [1, 3, 7, 257])
@pytest.mark.parametrize("dims", [3, 37, 384])
def test_equal_rows_have_equal_similarities(num_queries: int, dims: int) -> None:
    """BLAS rounds by position: a product with one query, or a last piece of few queries, tells equal rows apart."""
    rng = np.random.default_rng(dims)
    different, queries = rng.standard_normal((40, dims)), rng.standard_normal((num_queries, dims))
    which = rng.integers(40, size=103)
    _, first, back = np.unique(which, return_index=True, return_inverse=True)
    rows = different[which].astype(np.float32)
    rows[::2] *= 4  # of equal direction, to the bit
    pieces = list(cosines.cosine_similarities(queries.astype(np.float32), rows))
    assert [piece.start for piece, _ in pieces] == list(range(0, num_queries, 256))
    found = np.concatenate([similarities for _, similarities in pieces])
    assert (found == found[:, first[back]]).all()
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(found, queries @ rows.T.astype(np.float64) / lengths, atol=1e-6)


@given(
    arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-1, 1, width=32)),
    st.integers(-120, 120),
)
def test_a_power_of_two_changes_no_digit_of_a_unit_row(rows_ND: np.ndarray, power: int) -> None:
    """Lengths whose squares overflow, vanish or do neither: one row of each kind decides for its whole piece."""
    rows_ND = np.where(np.abs(rows_ND) < 2.0**-20, 0, rows_ND).astype(np.float32)  # stay above subnormals
    scaled_ND = np.ldexp(rows_ND, np.int32(max(power, -100))).astype(np.float32)
    expected_ND = cosines.unit_rows(rows_ND)
    assert (cosines.unit_rows(scaled_ND) == expected_ND).all()
    both = cosines.unit_rows(np.concatenate([rows_ND, scaled_ND]))
    assert (both == np.concatenate([expected_ND, expected_ND])).all()
    lengths = np.linalg.norm(expected_ND.astype(np.float64), axis=1)
    assert np.all((np.abs(lengths - 1) < 1e-6) | (rows_ND == 0).all(axis=1))


def test_rows_whose_sums_meet_stay_different() -> None:
    """Two hundred thousand sums of 32 bits: some are equal by chance, and their rows are not."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((200_000, 2)).astype(np.float32)
    rows[-1] = rows[7]
    found_N = next(cosines.cosine_similarities(rows[7:8], rows))[1][0]
    unit_ND = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert found_N[-1] == found_N[7]
    np.testing.assert_allclose(found_N, unit_ND @ unit_ND[7], atol=1e-6)


def test_threads_and_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((211, 24)).astype(np.float32)
    rows[50] = rows[200] = rows[3]  # in parts of three threads, and in three blocks of a product
    rows[9] = 0
    rows[140] = 1e30
    queries = rng.standard_normal((5, 24)).astype(np.float32)
    unit, places = cosines.unit_rows(rows), cosines._places(rows)
    whole = next(cosines.cosine_similarities(queries, rows))[1]
    monkeypatch.setattr(cosines, "available_cores", lambda: 3)
    for name, value in {"_ROWS_OF_A_THREAD": 40, "_ROWS_TOGETHER": 16, "_ROWS_MULTIPLIED": 64}.items():
        monkeypatch.setattr(cosines, name, value)
    np.testing.assert_array_equal(cosines.unit_rows(rows), unit)
    assert places is not None
    np.testing.assert_array_equal(cosines._places(rows), places)
    cut = next(cosines.cosine_similarities(queries, rows))[1]
    np.testing.assert_allclose(cut, whole, atol=1e-6)
    assert (cut[:, [50, 200]] == cut[:, [3]]).all()
    assert cosines.unit_rows(rows[:0]).shape == (0, 24)
    assert cosines._places(rows[:1]) is None
