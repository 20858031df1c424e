"""Published weights come from a server: the right file whole, or nothing and one line that says why."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import shutil
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import fsspec
import pytest
import tomli_w

from massl_bench.core.download import download
from massl_bench.core.errors import MissingDataError, SpecError
from massl_bench.core.files import sha256_file
from massl_bench.specs.manifest import ManifestSpec
from massl_bench.specs.registry import Registry
from massl_bench.specs.toml import read_toml
from tests.conftest import Answer

Cli = Callable[..., Answer]

QUOTA_PAGE = b"\n <!DOCTYPE html><html><head><title>Quota exceeded</title></head></html>"


class Site:
    """What a server answers: (status, headers, body) by path."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.address = ""
        self.asked: list[str] = []

    def serve(self, path: str, body: bytes, *, status: int = 200, **headers: str) -> str:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[path] = (status, {"Content-Length": str(len(body)), **named}, body)
        return f"{self.address}{path}"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    known = Site()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            known.asked.append(self.path)
            status, headers, body = known.answers.get(self.path, (404, {"Content-Length": "0"}, b""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    known.address = f"http://127.0.0.1:{http.server_port}"
    yield known
    http.shutdown()
    http.server_close()


@pytest.fixture
def official(golden: Path) -> bytes:
    return (golden / "official_format_checkpoint.pth").read_bytes()


def publish(name: str = "gold", root: Path = Path("weights"), **checkpoint: Any) -> Path:
    told = {"name": "mine", "method": "Mine", "source": "of the tests", "read": "2026-11-26", "licence": "MIT"}
    content = {**told, "citation": "A, 2024", "checkpoints": {name: {"architecture": "vit", **checkpoint}}}
    path = root / "published" / "mine.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps(content))
    return path


def kept() -> list[str]:
    """What lies in the cache of weights."""
    folder = Path(os.environ["MASSL_BENCH_CACHE"]) / "weights"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_published_name_is_fetched_loaded_and_pinned(run_cli: Cli, site: Site, official: bytes) -> None:
    sha256 = hashlib.sha256(official).hexdigest()
    publish(url=site.serve("/a/gold.pth.tar", official), epochs=800)
    before = run_cli("run", "--task", "knn", "--dataset", "digits", "--model", "gold")
    assert before.code == 2
    assert before.error.endswith("is published and not on this machine; next: massl-bench weights fetch gold")
    assert not is_listed_as_here(run_cli)
    answer = run_cli("weights", "fetch", "gold")
    assert answer.code == 0, answer.err
    assert f"gold-{sha256[:16]}.tar; sha256 {sha256} (pinned at the first download, " in answer.out
    assert "its authors publish no hash" in answer.out
    assert kept() == [f"gold-{sha256[:16]}.tar"]
    manifest = read_toml(Path("weights/gold.toml"), ManifestSpec)
    assert (manifest.sha256, manifest.adapter, manifest.licence) == (sha256, "massl", "MIT")
    assert (manifest.file, manifest.url, manifest.summary) == (
        None,
        f"{site.address}/a/gold.pth.tar",
        "Mine, vit, 800 epochs",
    )
    measured = run_cli("run", "--task", "knn", "--dataset", "digits", "--model", "gold", "--limit", "test=20")
    assert measured.code == 0, measured.err
    assert is_listed_as_here(run_cli)
    # There: no second download, and no network is needed.
    assert run_cli("weights", "fetch", "gold", "--offline").code == 0
    assert site.asked == ["/a/gold.pth.tar"]


def is_listed_as_here(run_cli: Cli) -> bool:
    rows = json.loads(run_cli("weights", "list", "--remote", "--json").out)
    return bool(next(row["here"] for row in rows if row["name"] == "gold"))


def test_another_file_at_the_address_is_refused_later(run_cli: Cli, site: Site, official: bytes) -> None:
    publish(url=site.serve("/gold.pth", official))
    assert run_cli("weights", "fetch", "gold").code == 0
    shutil.rmtree(Path(os.environ["MASSL_BENCH_CACHE"]) / "weights")
    site.serve("/gold.pth", official + b"changed")
    answer = run_cli("weights", "fetch", "gold")
    assert answer.code == 1
    assert "it is not the file of the manifest weights/gold.toml: its sha256 is" in answer.error
    assert f"expected {hashlib.sha256(official).hexdigest()} (pinned at the first download, " in answer.error
    assert kept() == []
    site.serve("/gold.pth", official)
    assert run_cli("weights", "fetch", "gold").code == 0


@pytest.mark.parametrize(("kind", "digits"), [("sha256", 64), ("sha256", 8), ("md5", 6)])
def test_what_authors_publish_of_a_file_is_checked(
    run_cli: Cli, site: Site, official: bytes, kind: str, digits: int
) -> None:
    right = hashlib.new(kind, official).hexdigest()[:digits]
    publish(url=site.serve("/gold.pth", official), **{kind: right})  # type: ignore[arg-type]
    answer = run_cli("weights", "fetch", "gold")
    assert answer.code == 0, answer.err
    assert f"(its authors publish {kind} {right[:12]}" in answer.out
    Path("weights/gold.toml").unlink()
    wrong = ("0" if right[0] != "0" else "1") + right[1:]
    shutil.rmtree(Path(os.environ["MASSL_BENCH_CACHE"]) / "weights")
    publish(url=f"{site.address}/gold.pth", **{kind: wrong})  # type: ignore[arg-type]
    answer = run_cli("weights", "fetch", "gold")
    assert answer.code == 1
    assert f"it is not the file that its authors publish: its {kind} is {right[:6]}" in answer.error
    assert answer.error.endswith("nothing was kept")
    assert (kept(), list(Path("weights").glob("*.toml"))) == ([], [])


def test_what_is_no_file_is_named_and_nothing_is_kept(run_cli: Cli, site: Site, official: bytes) -> None:
    site.serve("/page", QUOTA_PAGE)
    site.serve("/login", QUOTA_PAGE, status=200, Content_Type="text/html")
    site.serve("/half.pth", official[: len(official) // 2], Content_Length=str(len(official)))
    site.serve("/empty.pth", b"")
    site.serve("/other.pth", b"PK\x03\x04 no checkpoint")
    site.serve("/denied.pth", b"", status=403)
    site.serve("/round", b"", status=302, Location="/round")
    site.serve("/out", b"", status=302, Location="file:///etc/passwd")
    for path, code, message in (
        ("/page", 1, f"a web page came in place of the file ({len(QUOTA_PAGE)} bytes): a login, a quota"),
        ("/login", 1, "a web page came in place of the file"),
        ("/half.pth", 1, f"the connection ended after {len(official) // 2:,} of {len(official):,} bytes"),
        ("/gone.pth", 1, "the server answers 404 Not Found"),
        ("/denied.pth", 1, "the server answers 403 Forbidden"),
        ("/round", 1, "the server answers 302"),
        ("/out", 1, "the server answers 302"),
    ):
        publish(url=f"{site.address}{path}")
        answer = run_cli("weights", "fetch", "gold")
        assert (answer.code, message in answer.error) == (code, True), (path, answer.err)
        assert f"model gold: {site.address}{path}: " in answer.error
        assert kept() == [], path
    for path in ("/empty.pth", "/other.pth"):  # files, and no weights
        publish(url=f"{site.address}{path}")
        answer = run_cli("weights", "fetch", "gold")
        assert (answer.code, "fetched to" in answer.error, "and not taken" in answer.error) == (1, True, True), (
            answer.err
        )
    assert list(Path("weights").glob("*.toml")) == []


def test_a_redirect_is_followed(run_cli: Cli, site: Site, official: bytes) -> None:
    site.serve("/real.pth", official)
    publish(url=site.serve("/gold.pth", b"", status=302, Location="/real.pth"))
    assert run_cli("weights", "fetch", "gold").code == 0
    assert site.asked == ["/gold.pth", "/real.pth"]


def test_a_manifest_of_an_object_store_is_fetched_by_its_library(
    run_cli: Cli, official: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    url, sha256 = "memory://bucket/gold.pth", hashlib.sha256(official).hexdigest()
    told = {"name": "gold", "url": url, "sha256": sha256, "summary": "of the tests", "licence": "MIT"}
    Path("weights").mkdir()
    Path("weights/gold.toml").write_text(tomli_w.dumps({**told, "citation": "A, 2024"}))
    answer = run_cli("weights", "fetch", "gold")
    assert (answer.code, kept()) == (1, [])
    assert f"model gold: {url}: the store has no such file; nothing was kept" in answer.error
    fsspec.filesystem("memory").pipe("/bucket/gold.pth", official)
    try:
        assert run_cli("weights", "fetch", "gold").code == 0
        assert kept() == [f"gold-{sha256[:16]}.pth"]
    finally:
        fsspec.filesystem("memory").rm("/bucket/gold.pth")


@pytest.mark.parametrize("url", ["file:///etc/hosts", "zip://x::memory://a.zip", "nowhere://a", "s3:/a", "/etc"])
def test_what_is_no_address_of_a_remote_file(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected an address that begins with https://, or that of a store"):
        download(url, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_answer_comes_at_once(run_cli: Cli, site: Site) -> None:
    publish(url="http://127.0.0.1:9/gold.pth")
    answer = run_cli("weights", "fetch", "gold")
    assert (answer.code, "127.0.0.1:9/gold.pth: no connection: " in answer.error) == (1, True)
    offline = run_cli("weights", "fetch", "gold", "--offline")
    assert (offline.code, "downloading is not allowed (--offline)" in offline.error) == (2, True)
    assert kept() == []


def test_a_server_that_falls_silent_is_left(
    run_cli: Cli, site: Site, official: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("massl_bench.core.download._TIMEOUT_SECONDS", 0.2)
    done = threading.Event()

    class Stalled(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(official)))
            self.end_headers()
            self.wfile.write(official[:1000])
            self.wfile.flush()
            done.wait(10)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Stalled)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    publish(url=f"http://127.0.0.1:{http.server_port}/gold.pth")
    answer = run_cli("weights", "fetch", "gold")
    done.set()
    http.shutdown()
    http.server_close()
    assert (answer.code, "timed out" in answer.error, kept()) == (1, True, [])


def test_ctrl_c_leaves_nothing(run_cli: Cli, site: Site, official: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(url=site.serve("/gold.pth", official))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("massl_bench.core.download._digested", interrupted)
    answer = run_cli("weights", "fetch", "gold")
    assert (answer.code, kept()) == (130, [])


def test_a_member_of_an_archive_is_the_file(run_cli: Cli, site: Site, official: bytes) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("folder/readme.txt", "of somebody")
        archive.writestr("folder/gold.pth.tar", official)
    url = site.serve("/gold.zip", packed.getvalue())
    publish(url=url, member="folder/gold.pth.tar", sha256=hashlib.sha256(packed.getvalue()).hexdigest())
    answer = run_cli("weights", "fetch", "gold")
    assert answer.code == 0, answer.err
    sha256 = hashlib.sha256(official).hexdigest()
    assert kept() == [f"gold-{sha256[:16]}.tar"]
    assert read_toml(Path("weights/gold.toml"), ManifestSpec).member == "folder/gold.pth.tar"
    shutil.rmtree(Path(os.environ["MASSL_BENCH_CACHE"]) / "weights")
    assert run_cli("weights", "fetch", "gold").code == 0  # by the manifest
    assert kept() == [f"gold-{sha256[:16]}.tar"]
    Path("weights/gold.toml").unlink()
    publish(url=url, member="folder/silver.pth.tar")
    answer = run_cli("weights", "fetch", "gold")
    assert (answer.code, "the archive has no folder/silver.pth.tar; found folder/readme.txt" in answer.error) == (
        1,
        True,
    )
    broken = bytearray(packed.getvalue())
    broken[packed.getvalue().index(official[:64]) + 500] ^= 255
    publish(url=site.serve("/broken.zip", bytes(broken)), member="folder/gold.pth.tar")
    answer = run_cli("weights", "fetch", "gold")
    assert (answer.code, "Bad CRC-32" in answer.error) == (1, True)


def test_drive_is_asked_through_gdown(
    run_cli: Cli, site: Site, official: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(url="https://drive.google.com/file/d/1AbC_d-E/view?usp=sharing")
    monkeypatch.setitem(sys.modules, "gdown", None)
    answer = run_cli("weights", "fetch", "gold")
    assert (answer.code, kept()) == (2, [])
    assert (
        "pip install 'massl-bench[drive]', or download it in a browser, and then: massl-bench weights add"
        in answer.error
    )

    asked = []
    fake = ModuleType("gdown")

    def download(*, output: str, **options: object) -> str:
        asked.append(options["id"])
        Path(output).write_bytes(content)
        return output

    fake.download = download
    monkeypatch.setitem(sys.modules, "gdown", fake)
    content = QUOTA_PAGE
    answer = run_cli("weights", "fetch", "gold")
    assert (answer.code, "a web page came in place of the file" in answer.error, kept()) == (1, True, [])
    content = official
    assert run_cli("weights", "fetch", "gold").code == 0
    assert asked == ["1AbC_d-E", "1AbC_d-E"]

    def refused(**_: object) -> str:
        raise RuntimeError("Cannot retrieve the public link of the file:\n\n\tToo many users")

    fake.download = refused
    Path("weights/gold.toml").unlink()
    answer = run_cli("weights", "fetch", "gold")
    assert (
        answer.code,
        "Google Drive: Cannot retrieve the public link of the file: Too many users" in answer.error,
    ) == (1, True)


def test_what_a_person_has_to_fetch_is_said(run_cli: Cli, site: Site) -> None:
    publish(page="https://example.org/form", because="its authors send the address after a form")
    answer = run_cli("weights", "fetch", "gold")
    assert answer.code == 2
    assert (
        "its authors send the address after a form: https://example.org/form; then: massl-bench weights add"
        in answer.error
    )
    publish(url="https://example.org/a.pkl", refused="a pickle that would execute what is in it")
    answer = run_cli("weights", "fetch", "gold")
    assert (answer.code, "is not fetched: a pickle that would execute" in answer.error) == (2, True)
    assert "did you mean gold" in run_cli("weights", "fetch", "golb").error


def test_a_file_is_hashed_once(run_cli: Cli, site: Site, official: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it comes: neither loading it, nor fetching it again, nor other settings read it for its hash again."""
    hashed = []

    def counted(path: Path) -> str:
        hashed.append(path)
        return sha256_file(path)

    monkeypatch.setattr("massl_bench.core.files.sha256_file", counted)
    publish(url=site.serve("/gold.pth", official))
    assert run_cli("weights", "fetch", "gold").code == 0
    for settings in ((), ("--pooling", "avg")):
        assert run_cli("info", "gold", *settings).code == 0
    assert run_cli("weights", "fetch", "gold").code == 0
    assert hashed == []
    (file,) = (Path(os.environ["MASSL_BENCH_CACHE"]) / "weights").iterdir()
    file.write_bytes(official + b"changed")
    answer = run_cli("info", "gold")
    assert (answer.code, "its manifest" in answer.error, hashed) == (2, True, [file])


def test_several_go_on_after_a_failure(run_cli: Cli, site: Site, official: bytes) -> None:
    path = publish(url=site.serve("/gold.pth", official))
    path.write_text(path.read_text() + f'\n[checkpoints.lost]\narchitecture = "vit"\nurl = "{site.address}/lost"\n')
    answer = run_cli("weights", "fetch", "lost", "gold", "--json")
    assert answer.code == 1
    lost, gold = json.loads(answer.out)
    assert (lost["file"], "404" in lost["problem"]) == (None, True)
    assert (sha256_file(Path(gold["file"])), gold["problem"]) == (gold["sha256"], None)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ({}, "expected url (of the file) or page"),
        ({"url": "https://a.org/b", "page": "https://a.org", "because": "x"}, "expected url (of the file) or page"),
        ({"page": "https://a.org"}, "because: says why a person has to go to the page"),
        ({"url": "ftp://a.org/b"}, "expected an address, https://…, got 'ftp://a.org/b'"),
        ({"url": "https://a.org/b", "sha256": "ABC"}, "sha256: "),
        ({"url": "https://a.org/b", "md5": "abc"}, "md5: "),
        ({"url": "https://a.org/b", "hash": "abcdef"}, "is not a known key"),
    ],
)
def test_a_file_of_published_weights_is_read_strictly(checkpoint: dict[str, str], message: str) -> None:
    path = publish(**checkpoint)  # type: ignore[arg-type]
    with pytest.raises(SpecError) as caught:
        _ = Registry(weights_dir=Path("weights")).checkpoints
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_name_has_one_source(tmp_path: Path) -> None:
    path = publish(url="https://a.org/b")
    path.with_name("other.toml").write_text(path.read_text().replace('name = "mine"', 'name = "other"'))
    with pytest.raises(SpecError, match=r"checkpoints\.gold: the name is taken by .*mine\.toml; rename one"):
        _ = Registry(weights_dir=Path("weights")).checkpoints


def test_what_comes_with_the_package_names_its_sources(run_cli: Cli) -> None:
    rows = {row["name"]: row for row in json.loads(run_cli("weights", "list", "--remote", "--json").out)}
    assert len(rows) >= 100
    for row in rows.values():
        assert row["source"]
        assert row["licence"]
        assert (row.get("url") or row["page"]).startswith("https://")
    assert rows["mae-vitb16"]["md5"] == "8cad7c"
    assert len(rows["clip-vitb32"]["sha256"]) == 64
    assert rows["clip-vitb32"]["sha256"] in rows["clip-vitb32"]["url"]
    assert rows["massl-vits16"]["host"] == "drive.google.com"
    assert rows["dinov3-vitl16"]["page"].startswith("https://ai.meta.com/")
    table = run_cli("weights", "list", "--remote").out
    assert {line.split()[0] for line in table.splitlines()[2:]} == set(rows)
    assert "massl-small-cifar10" in run_cli("weights", "list").out


class Breaking:
    """A server whose connections end after some bytes; it can begin in the middle where it names a version."""

    def __init__(self, body: bytes, after: int, versions: Iterator[str | None]) -> None:
        self.asked: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                version, asked = next(versions), self.headers.get("Range")
                outer.asked.append(asked)
                start = int(asked.removeprefix("bytes=")[:-1]) if asked and self.headers["If-Range"] == version else 0
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                if version is not None:
                    self.send_header("ETag", version)
                self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                self.wfile.write(body[start : start + after])
                self.close_connection = True

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/gold.pth"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def test_what_a_broken_connection_left_out_is_asked_for(tmp_path: Path) -> None:
    body = bytes(range(256)) * 40
    server = Breaking(body, 3000, itertools.repeat('"v1"'))
    found = download(server.url, tmp_path / "f")
    server.close()
    assert server.asked == [None, "bytes=3000-", "bytes=6000-", "bytes=9000-"]
    assert (tmp_path / "f").read_bytes() == body
    assert found.sha256 == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize(
    ("after", "versions", "asked"),
    [
        (3000, itertools.repeat(None), [None]),  # nothing tells that it would be the same file
        (3000, iter(('"v1"', '"v2"')), [None, "bytes=3000-"]),  # and here it is another one
        (0, itertools.repeat('"v1"'), [None, "bytes=0-"]),  # it never sends anything
    ],
)
def test_what_cannot_go_on_is_half_a_file(
    after: int, versions: Iterator[str | None], asked: list[str | None], tmp_path: Path
) -> None:
    server = Breaking(bytes(10_000), after, versions)
    with pytest.raises(ValueError, match=f"the connection ended after {after:,} of 10,000 bytes"):
        download(server.url, tmp_path / "f")
    server.close()
    assert server.asked == asked


def test_weights_of_torchvision_are_fetched_whole_or_not_at_all(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from massl_bench.models.torchvision_networks import _download

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    told = hashlib.sha256(b"weights").hexdigest()[:8]
    for name, body in ((f"net-{told}.pth", b"weights"), (f"other-{told}.pth", b"others"), ("page-0.pth", QUOTA_PAGE)):
        weights: Any = SimpleNamespace(url=site.serve(f"/{name}", body))
        if body == b"weights":
            assert _download(weights, "torchvision:net", True).read_bytes() == body
            assert _download(weights, "torchvision:net", True).read_bytes() == body
            continue
        with pytest.raises(MissingDataError, match=r"could not be downloaded: (its sha256 is|a web page came)"):
            _download(weights, "torchvision:net", True)
    assert [path.name for path in (tmp_path / "hub/checkpoints").iterdir()] == [f"net-{told}.pth"]
    assert site.asked.count(f"/net-{told}.pth") == 1
