"""What a parquet file says of its row groups: as pyarrow says it, and where pyarrow would end the process."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from massl_bench.datasets.parquet_footer import RowGroup, read_row_groups
from tests.conftest import FAULTS, Answer, make_hub_cache
from tests.datasets.test_left_out import KNN
from tests.mutations import mutations

Run = Callable[..., Answer]


def write(path: Path, **options: object) -> Path:
    rows = range(7)
    table = pa.table(
        {
            "image": [{"bytes": bytes(50 * row), "path": None if row % 2 else f"{row}.png"} for row in rows],
            "label": [row % 3 if row != 4 else None for row in rows],
            "list": [[row] * row for row in rows],
            "flag": [row % 2 == 0 for row in rows],
            "text": ["x" * row for row in rows],
        }
    ).replace_schema_metadata({"a": "b"})
    pq.write_table(table, path, **options)
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"row_group_size": 2},
        {"write_statistics": False},
        {"write_statistics": ["image.bytes"]},
        {"compression": "none", "version": "1.0", "use_dictionary": False},
        {"write_page_index": True, "store_schema": False},
    ],
)
def test_it_says_what_pyarrow_says(options: dict[str, object], tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", **options)
    metadata = pq.ParquetFile(path).metadata
    found = read_row_groups(path)
    assert [group.num_rows for group in found] == [metadata.row_group(g).num_rows for g in range(len(found))]
    assert len(found) == metadata.num_row_groups
    for number, group in enumerate(found):
        chunks = [metadata.row_group(number).column(index) for index in range(metadata.num_columns)]
        assert list(group.columns) == [chunk.path_in_schema for chunk in chunks]
        for chunk in chunks:
            ours, known = group.columns[chunk.path_in_schema], chunk.statistics
            assert ours.num_bytes == chunk.total_uncompressed_size
            assert ours.num_nulls == (known.null_count if known is not None and known.has_null_count else None)
        images = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.startswith("image."))
        assert group.num_bytes("image") == images


@pytest.mark.faults
def test_damaged_footers_are_errors(tmp_path: Path) -> None:
    content = write(tmp_path / "x.parquet").read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    file = tmp_path / "damaged.parquet"
    for footer in mutations(content[start:-8], 300, seed=51):
        file.write_bytes(content[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
        try:
            found = read_row_groups(file)
        except (ValueError, LookupError, TypeError, AttributeError):
            continue
        assert all(isinstance(group, RowGroup) for group in found)


def test_a_file_of_which_pyarrow_ends_the_process(
    tmp_path: Path, run_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lay_out(root: Path) -> None:
        (root / "data").mkdir(parents=True)
        for split in ("train", "test"):
            damaged = FAULTS / "hostile" / "parquet-88172.parquet"
            shutil.copy(damaged, root / "data" / f"{split}-00000-of-00001.parquet")

    make_hub_cache(tmp_path / "hub", "org/pets", lay_out, monkeypatch)
    answer = run_cli("run", "--dataset", "hf:org/pets", *KNN)
    # pyarrow 17 refuses the file as a whole, before work; newer ones its row group.
    assert re.search(r"parquet: (row group 0|it) cannot be read: .*; copy or fetch the file again$", answer.error)
    assert answer.code == (1 if "row group" in answer.error else 2)
