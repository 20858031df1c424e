"""MAT-files: what scipy reads is read, and what crashes it is one line."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from massl_bench.core.errors import RequestError
from massl_bench.datasets.published.matlab_files import read_mat

FAULTS = Path(__file__).parents[1] / "faults"


def content() -> dict[str, Any]:
    rows = np.zeros((1, 3), dtype=[("fname", object), ("class", object)])
    for index in range(3):
        rows[0, index] = (f"{index:05}.jpg", index + 1)
    return {
        "labels": np.arange(1, 400, dtype=np.uint8)[None] % 102,
        "ids": np.array([[3, 1, 2]], dtype=np.uint16),
        "annotations": rows,
        "class_names": np.array([["AM General", "BMW é", "x"]], dtype=object),
        "scalar": 3.0,
        "text": "hello",
        "flags": np.array([[True, False]]),
        "table": np.arange(12.0).reshape(3, 4),
        "empty": np.zeros((0, 0)),
        "large": np.array([[2**40]]),
    }


def plain(value: Any) -> Any:
    """Nested lists and dictionaries of what either reader returned."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if not isinstance(value, np.ndarray | np.generic):
        return value
    if value.ndim == 0 and value.dtype.names:
        return {name: plain(value[name]) for name in value.dtype.names}
    if value.ndim == 0:
        return plain(value[()]) if value.dtype == object else value.item()
    return [plain(inner) for inner in value]


@pytest.mark.parametrize("compressed", [False, True])
def test_as_scipy_reads_it(compressed: bool, tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", content(), do_compression=compressed)
    expected = loadmat(tmp_path / "a.mat", squeeze_me=True)
    found = read_mat(tmp_path / "a.mat")
    assert found.keys() == content().keys()
    assert {name: plain(value) for name, value in found.items()} == {name: plain(expected[name]) for name in found}


def test_a_file_that_ended_the_process() -> None:
    with pytest.raises(RequestError, match=r"mat-266-cars_train_annos.mat: not a MATLAB file that can be read: "):
        read_mat(FAULTS / "hostile" / "mat-266-cars_train_annos.mat")


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_files_are_one_line(compressed: bool, tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", content(), do_compression=compressed)
    whole = (tmp_path / "a.mat").read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        at = rng.randrange(len(damaged))
        match rng.randrange(4):
            case 0:
                damaged[at] ^= 1 << rng.randrange(8)
            case 1:
                del damaged[at : at + rng.randrange(1, 9)]
            case 2:
                damaged[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 3:
                damaged = damaged[:at]
        (tmp_path / "b.mat").write_bytes(damaged)
        try:
            read_mat(tmp_path / "b.mat")
        except RequestError:
            refused += 1
    assert refused > 100
