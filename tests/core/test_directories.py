"""Addresses of object stores are refused before anything is made, and directories with strange names are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from massl_bench.core.directories import check_directory
from massl_bench.core.errors import RequestError
from tests.conftest import Answer

RUN = ("run", "--task", "knn", "--dataset", "digits", "--model", "pixels")


@pytest.mark.parametrize(
    "address", ["s3://bucket/x", "gs://b", "abfs://c@a/x", "memory://x", "https://host/x", "s3:/b"]
)
@pytest.mark.parametrize("option", ["--cache-dir", "--results-dir", "--data-root"])
def test_an_address_is_no_directory(address: str, option: str, run_cli: Callable[..., Answer]) -> None:
    answer = run_cli(*RUN, option, address)
    assert answer.code == 2
    assert f"{option} {str(Path(address)).replace(':/', '://')}: an address, and not a directory" in answer.error
    assert not list(Path().glob("*:"))


@pytest.mark.parametrize("name", ["a:b", "C:/x", "C:\\x", "/s3:/x", "./s3:/x/..", "a b:/", "10:30/x"])
def test_other_names_are_taken(name: str) -> None:
    check_directory(Path("/top") / name if name != "C:/x" else Path(name), "cache_dir")


def test_the_python_interface_refuses_it_too() -> None:
    with pytest.raises(RequestError, match="results_dir"):
        check_directory(Path("s3://bucket"), "results_dir")
