"""What `doctor` says of a directory that machines share: each fault is made here, and named."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from massl_bench.bench import shared_directory
from massl_bench.bench.finding import Finding
from massl_bench.bench.shared_directory import examine_directory, file_system, versions_of
from massl_bench.features import FeatureCache
from tests.conftest import Answer


def found(directory: Path) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine_directory("cache", directory)}


def test_an_ordinary_directory(tmp_path: Path) -> None:
    findings = found(tmp_path / "not" / "there")
    assert list(findings) == ["cache: file system", "cache: locks", "cache: clock"]
    assert all(finding.ok for finding in findings.values()), findings
    assert findings["cache: locks"].text == "a second process was kept out"
    assert list(tmp_path.iterdir()) == []


def test_locks_that_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a mount with local locks: the other process locks a file of its own."""
    run = subprocess.run

    def elsewhere(command: list[str], **options: Any) -> Any:
        return run([*command[:-1], str(tmp_path / "its-own")], **options)

    monkeypatch.setattr(shared_directory.subprocess, "run", elsewhere)
    finding = found(tmp_path)["cache: locks"]
    assert (finding.ok, finding.optional) == (False, True)
    assert finding.text.startswith("lost: a second process got a lock that was held; processes that share it may do")


def test_no_locks_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(FileLock, "acquire", none)
    assert found(tmp_path)["cache: locks"].text.startswith("none (NotImplementedError): processes that share it")


@pytest.mark.parametrize(("seconds", "said"), [(-90, "90 s behind"), (3600, "3,600 s ahead of"), (1, "agree")])
def test_a_server_with_another_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, said: str
) -> None:
    touch = Path.touch

    def dated(path: Path, *arguments: Any, **options: Any) -> None:
        touch(path, *arguments, **options)
        if path.name == "clock":
            moment = shared_directory.time.time() + seconds
            os.utime(path, (moment, moment))

    monkeypatch.setattr(Path, "touch", dated)
    finding = found(tmp_path)["cache: clock"]
    assert said in finding.text.replace("89 s", "90 s").replace("91 s", "90 s").replace("3,599", "3,600")
    assert finding.ok == (seconds == 1)


@pytest.mark.parametrize(
    ("mount", "kind", "late"),
    [
        ("server:/x {} nfs4 rw,vers=4.2,hard 0 0", "nfs4, of another machine", "up to 60 s late"),
        ("server:/x {} nfs rw,acregmax=3,acdirmax=5 0 0", "nfs, of another machine", "up to 5 s late"),
        ("server:/x {} nfs4 rw,actimeo=1 0 0", "nfs4, of another machine", "up to 1 s late"),
        ("server:/x {} nfs4 rw,noac 0 0", "nfs4, of another machine", ""),
        ("x {} lustre rw 0 0", "lustre, of another machine", ""),
        ("/dev/sda1 {} ext4 rw 0 0", "ext4, of this machine", ""),
    ],
)
def test_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mount: str, kind: str, late: str) -> None:
    """The innermost mount counts; a space in its name is written as \\040."""
    place = tmp_path / "a folder" / "cache"
    place.mkdir(parents=True)
    table = ["/dev/root / xfs rw 0 0", mount.format(str(place.parent).replace(" ", "\\040"))]
    (tmp_path / "mounts").write_text("\n".join(table))
    monkeypatch.setattr(shared_directory, "_MOUNTS", tmp_path / "mounts")
    told = file_system(place)
    assert told[0] == kind
    assert late in told[1]
    assert bool(late) == bool(told[1])
    assert file_system(tmp_path)[0] == "xfs, of this machine"
    monkeypatch.setattr(shared_directory, "_MOUNTS", tmp_path / "none")
    assert file_system(place)[0] == "unknown, of this machine"


def test_two_versions_on_one_cache(run_cli: Callable[..., Answer], tmp_path: Path) -> None:
    places = ("--cache-dir", tmp_path / "c", "--results-dir", tmp_path / "r")
    run = run_cli("run", "--task", "knn", "--dataset", "digits", "--model", "pixels", *places)
    assert run.code == 0, run.err
    cache = FeatureCache(tmp_path / "c")
    assert versions_of(cache).ok
    (tmp_path / "c" / "versions" / "0.1.0").touch()
    answer = run_cli("doctor", *places)
    assert answer.code == 0
    assert "MISS cache: versions: 0.1.0 wrote to it as well as " in answer.out
    assert "ok   results: locks: a second process was kept out" in answer.out


def test_a_directory_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(shared_directory, "scratch_directory", refuse)
    assert found(tmp_path)["cache: locks"].text == f"{tmp_path} cannot be written to: Read-only file system"
