"""Downloads, from a real server on this machine."""

from __future__ import annotations

import hashlib
import io
import shutil
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Answer
from tests.datasets.copies import small_registry, write_eurosat
from tests.datasets.test_layouts import tiny_registry, write_cifar


def make_archive(root: Path, tmp_path: Path) -> str:
    write_cifar(tmp_path / "archive")
    with tarfile.open(root / "tiny.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "archive" / "cifar-10-batches-py", "cifar-10-batches-py")
    return hashlib.md5((root / "tiny.tar.gz").read_bytes()).hexdigest()


def test_fetch_then_use_offline(
    server: tuple[Path, str], tmp_path: Path, run_cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    root, address = server
    md5 = make_archive(root, tmp_path)
    tiny_registry(tmp_path, archives=f'[{{ url = "{address}/tiny.tar.gz", md5 = "{md5}" }}]')
    include = ("--include-path", tmp_path / "registry")
    fetched = run_cli("datasets", "fetch", "tiny", *include)
    assert fetched.code == 0, fetched.err
    assert "tiny: there; published in" in fetched.out
    assert fetched.err == ""  # no bar where nobody watches
    checked = run_cli("datasets", "check", "tiny", "--offline", *include)
    assert checked.code == 0, checked.err
    assert "tiny: ok; published" in checked.out
    assert "train 6, test 3" in checked.out


def test_a_wrong_checksum_leaves_nothing(
    server: tuple[Path, str], tmp_path: Path, run_cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    root, address = server
    make_archive(root, tmp_path)
    tiny_registry(tmp_path, archives=f'[{{ url = "{address}/tiny.tar.gz", md5 = "{"0" * 32}" }}]')
    answer = run_cli(
        "datasets", "fetch", "tiny", "--include-path", tmp_path / "registry", "--cache-dir", tmp_path / "c"
    )
    assert answer.code == 1
    assert "could not be fetched" in answer.error
    assert "by hand: ask the publisher" in answer.error
    assert [path for path in (tmp_path / "c").rglob("*") if path.is_file()] == []


def evil_member(name: str, **fields: object) -> tuple[tarfile.TarInfo, io.BytesIO]:
    content = b"planted"
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    return member, io.BytesIO(content)


@pytest.mark.parametrize("kind", ["above", "link", "no tar", "no zip"])
def test_an_archive_that_is_none_or_leaves_its_folder(
    kind: str, server: tuple[Path, str], tmp_path: Path, run_cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    root, address = server
    file = root / ("tiny.zip" if kind == "no zip" else "tiny.tar.gz")
    if kind.startswith("no "):
        file.write_bytes(b"<html>moved</html>")
    else:
        with tarfile.open(file, "w:gz") as archive:
            if kind == "link":
                archive.addfile(*evil_member("out", type=tarfile.SYMTYPE, linkname="../..", size=0))
                archive.addfile(*evil_member("out/planted"))
            else:
                archive.addfile(*evil_member("../planted"))
    md5 = hashlib.md5(file.read_bytes()).hexdigest()
    tiny_registry(tmp_path, archives=f'[{{ url = "{address}/{file.name}", md5 = "{md5}" }}]')
    cache = tmp_path / "c"
    answer = run_cli("datasets", "fetch", "tiny", "--include-path", tmp_path / "registry", "--cache-dir", cache)
    assert answer.code == 1
    assert f"{file.name}: " in answer.error
    assert "by hand: ask the publisher" in answer.error
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert list(tmp_path.rglob("planted")) == []


def test_a_server_that_says_nothing(
    tmp_path: Path, run_cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.setattr("massl_bench.core.download._TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/tiny.tar.gz"
        tiny_registry(tmp_path, archives=f'[{{ url = "{url}", md5 = "{"0" * 32}" }}]')
        answer = run_cli("datasets", "fetch", "tiny", "--include-path", tmp_path / "registry")
    assert answer.code == 1
    assert "timed out" in answer.error


def test_several_archives_and_tables(
    server: tuple[Path, str], tmp_path: Path, run_cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    root, address = server
    copy = write_eurosat(tmp_path / "published")
    shutil.make_archive(str(root / "EuroSAT"), "zip", tmp_path / "published", "2750")
    names = ["EuroSAT.zip", "eurosat-train.txt", "eurosat-test.txt"]
    for name in names[1:]:
        shutil.copy(tmp_path / "published" / name, root)
    small_registry(tmp_path, "eurosat", {role: len(files) for role, files in copy.files.items()}, 10)
    spec = tmp_path / "registry" / "tasks" / "datasets" / "eurosat.toml"
    sources = [(f"{address}/{name}", hashlib.md5((root / name).read_bytes()).hexdigest()) for name in names]
    archives = ", ".join(f'{{ url = "{url}", md5 = "{md5}" }}' for url, md5 in sources)
    spec.write_text(f"archives = [{archives}]\n{spec.read_text()}")
    include = ("--include-path", tmp_path / "registry")
    assert run_cli("datasets", "fetch", "eurosat", *include).code == 0
    checked = run_cli("datasets", "check", "eurosat", "--offline", *include)
    assert "eurosat: ok; published" in checked.out, checked.err
    assert "train 20, test 10" in checked.out


def test_check_compares_the_publishers_files(tmp_path: Path, run_cli: Callable[..., Answer]) -> None:
    copy = write_eurosat(tmp_path / "data" / "eurosat")
    small_registry(tmp_path, "eurosat", {role: len(files) for role, files in copy.files.items()}, 10)
    spec = tmp_path / "registry" / "tasks" / "datasets" / "eurosat.toml"
    table = tmp_path / "data" / "eurosat" / "eurosat-test.txt"
    md5 = {"EuroSAT.zip": "0" * 32, table.name: hashlib.md5(table.read_bytes()).hexdigest()}
    archives = ", ".join(f'{{ url = "http://host/{name}", md5 = "{value}" }}' for name, value in md5.items())
    spec.write_text(f"archives = [{archives}]\n{spec.read_text()}")
    command = (
        "datasets",
        "check",
        "eurosat",
        "--include-path",
        tmp_path / "registry",
        "--data-root",
        tmp_path / "data",
    )
    answer = run_cli(*command)
    assert answer.code == 0, answer.err
    assert "eurosat: ok; published in" in answer.out
    assert "test 10; checksums compared: 1 of 2; fingerprint" in answer.out
    table.write_text(table.read_text() + "\n")  # it is read as before
    answer = run_cli(*command)
    assert answer.code == 1
    found = hashlib.md5(table.read_bytes()).hexdigest()
    assert f"eurosat-test.txt: found md5 {found}, expected {md5[table.name]}" in answer.error
    assert "eurosat: problems: 1; published" in answer.out
    table.write_text("\n".join(table.read_text().split()[:-1]))  # now it is not: named beside what follows from it
    answer = run_cli(*command)
    assert answer.code == 1
    assert "eurosat-test.txt: found md5" in answer.err
    assert "found 9 images, expected 10" in answer.err


def test_a_dead_link(tmp_path: Path, run_cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    tiny_registry(tmp_path, archives=f'[{{ url = "http://127.0.0.1:9/tiny.tar.gz", md5 = "{"0" * 32}" }}]')
    answer = run_cli("datasets", "fetch", "tiny", "--include-path", tmp_path / "registry")
    assert answer.code == 1
    assert "127.0.0.1:9" in answer.error


def test_check_names_a_corrupt_image(image_folder: Path, run_cli: Callable[..., Answer]) -> None:
    (image_folder / "train" / "blue" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    answer = run_cli("datasets", "check", f"folder:{image_folder}")
    assert answer.code == 1
    assert "train/blue/3.png: corrupt image" in answer.error
    assert "problems: 1" in answer.out


def test_unknown_names_are_found_before_anything_else(run_cli: Callable[..., Answer]) -> None:
    answer = run_cli("datasets", "check", "digits", "cifar11")
    assert answer.code == 2
    assert "did you mean" in answer.error
    assert answer.out == ""
