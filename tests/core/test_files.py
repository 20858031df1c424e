"""Files: whole or not at all, hashes with one spelling, names that any file system takes."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest

from massl_bench.core.files import (
    atomic_directory,
    atomic_file,
    canonical_json,
    open_regular,
    read_memo,
    remove_directory,
    sha256_file,
    sha256_of,
    stat_signature,
    what_it_is,
    write_atomic,
    write_memo,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_equal_values_have_one_spelling() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "é"}) == '{"a":"é","b":[1,2.5]}'
    assert sha256_of({"a": 1, "b": 2}) == sha256_of({"b": 2, "a": 1})
    assert sha256_of({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_a_files_hash(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_atomic(path, "old")

    def interrupted() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["record.json"]
    write_atomic(path, "new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["record.json"]


def test_a_directory_appears_whole(tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_directory(tmp_path / "bank") as temporary:
            (temporary / "features.npy").write_bytes(b"1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert names(tmp_path) == []
    with atomic_directory(tmp_path / "bank") as temporary:
        (temporary / "features.npy").write_bytes(b"1")
        assert not (tmp_path / "bank").exists()
    assert (tmp_path / "bank" / "features.npy").read_bytes() == b"1"


def test_the_first_of_two_writers_of_a_directory_stays(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "bank") as slow:
        (slow / "x").write_text("slow")
        with atomic_directory(tmp_path / "bank") as fast:
            (fast / "x").write_text("fast")
    assert (tmp_path / "bank" / "x").read_text() == "fast"
    assert names(tmp_path) == ["bank"]


def test_a_directory_is_gone_at_once(tmp_path: Path) -> None:
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / "x").write_text("")
    remove_directory(tmp_path / "bank")
    remove_directory(tmp_path / "nothing there")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"\n <!DOCTYPE html><p>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "a git-LFS pointer, and git lfs pull fetches the file itself"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\x80\x02}q", "a pickle"),
        (b"hello", "a file that begins with 'hello'"),
        (b"\x1b[31m\xff", "a file that begins with '\\x1b[31m\\xff'"),
    ],
)
def test_what_a_file_is_in_words(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "x").write_bytes(content)
    assert what_it_is(tmp_path / "x") == what


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name, why in {"pipe": "a pipe", "zeros": "a device", ".": "a directory"}.items():
            with pytest.raises(OSError, match=f"not a regular file but {why}"):
                open_regular(tmp_path / name)
        with pytest.raises(OSError, match="socket"):
            sha256_file(tmp_path / "socket")
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"abc"


def test_equal_size_and_time_do_not_hide_another_content(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    os.utime(path, (0, 0))
    before = stat_signature(path)
    (tmp_path / "new").write_bytes(b"two")
    os.utime(tmp_path / "new", (0, 0))
    (tmp_path / "new").replace(path)
    assert stat_signature(path)[:2] == before[:2]
    assert stat_signature(path) != before


def test_names_that_are_not_utf_8_are_hashed_and_remembered(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    assert sha256_of([name]) != sha256_of(["caf\\xe9"])
    write_memo(tmp_path, "memo", {"name": name})
    assert read_memo(tmp_path, "memo") == {"name": name}


def test_a_memo_under_another_name_is_not_believed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_memo(tmp_path, name, {"sha256": name})
    (tmp_path / "one.json").replace(tmp_path / "two.json")
    assert read_memo(tmp_path, "two") is None
