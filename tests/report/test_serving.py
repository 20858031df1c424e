"""The page that is served: to this machine alone, one whole table at any moment, with what runs and what failed."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from massl_bench.core.errors import RequestError
from massl_bench.records.activity import Activity
from massl_bench.records.record import ResultRecord, write_record
from massl_bench.report import serving
from massl_bench.report.serving import LivePage
from tests.conftest import Answer
from tests.report.made import record, write
from tests.report.served import served

Cli = Callable[..., Answer]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_SECONDS_BETWEEN_LOOKS", 0.05)


def ask(port: int, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host if host is not None else f"127.0.0.1:{port}")
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def state(port: int) -> dict[str, Any]:
    return json.loads(ask(port, "/state")[1])


def wait(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def models(page: str) -> list[str]:
    return re.findall(r'data-m="\d+"><bdi>([^<]+)<', page)


def test_only_this_machine_under_its_own_name() -> None:
    write(Path("results"), [record("a", "knn", "cifar10", 0.7)])
    with served(Path("results")) as port:
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}"):
            assert ask(port, "/", host)[0] == 200
        for host in (
            "evil.example",
            f"evil.example:{port}",
            "127.0.0.1",
            f"127.0.0.1:{port}.evil.example",
            "",
            "[::1]",
        ):
            status, text = ask(port, "/", host)
            assert status == 403
            assert "<table" not in text
            assert ask(port, "/state", host)[0] == 403
        assert ask(port, "/", method="POST")[0] == 501
        assert ask(port, "/", method="HEAD") == (200, "")


def test_nothing_but_records_below_the_results() -> None:
    results = write(Path("here/results"), [record("a", "knn", "cifar10", 0.7)])
    secret = Path("here/secret.json")
    secret.write_text('"secret"')
    (results / "m000/knn/link.json").symlink_to(secret.resolve())
    (results / "m000/knn/inside.json").symlink_to("cifar10.json")
    (results / "m000/knn/notes.txt").write_text("secret")
    with served(results) as port:
        for path in (
            "records/m000/knn/cifar10.json",
            "records/m000/knn/inside.json",
            "records/m000/knn/cifar10%2ejson",
        ):
            status, text = ask(port, f"/{path}")
            assert status == 200
            assert json.loads(text)["identity"]["model"]["name"] == "a"
        for path in (
            "secret.json", "../secret.json", "records/../secret.json", "records/x/../../secret.json",
            "records/..%2fsecret.json", "records/m000/..%2f..%2f/secret.json", "records//etc/passwd",
            "records/m000/knn/link.json", "records/m000/knn/notes.txt", "records/m000/knn/", "records/%00/a/b.json",
            "records/m000/knn/..%5c..%5csecret.json", "records/.running/a/b.json", "http://evil.example/secret.json",
        ):  # fmt: skip
            status, text = ask(port, path if path.startswith("http:") else f"/{path}")
            assert status == 404, path
            assert "secret" not in text


def test_records_that_arrive_and_a_table_that_is_always_whole() -> None:
    names = [f"model {number}" for number in range(30)]
    results = write(Path("results"), [record("first", "knn", "cifar10", 0.7)])
    seen: list[list[str]] = []
    with served(results) as port:
        before = state(port)["version"]

        def writer(part: list[str]) -> None:
            for name in part:
                content = ResultRecord.model_validate(record(name, "knn", "cifar10", 0.5))
                write_record(results / name.replace(" ", "-") / "knn" / "cifar10.json", content)

        threads = [threading.Thread(target=writer, args=(names[start::3],)) for start in range(3)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            status, text = ask(port, "/")
            assert status == 200
            assert text.endswith("</html>\n")
            seen.append(models(text))
        wait(lambda: len(set(models(ask(port, "/")[1]))) == len(names) + 1)
        assert state(port)["version"] != before
        assert f'data-version="{state(port)["version"]}"' in ask(port, "/")[1]
    assert all(set(few) <= set(many) for few, many in pairwise(seen))


def test_what_runs_and_what_failed() -> None:
    results = write(Path("results"), [record("a", "knn", "cifar10", 0.7, created_at="2026-01-01T00:00:00+00:00")])
    with served(results) as port:
        run = Activity(results, total=3)
        with run.shown():
            run.begin(("<b>", "knn", "digits"))
            run.advance("<b> on digits/test: 10/450 images")
            (running,) = state(port)["running"]
            assert (running["what"], running["done"], running["total"]) == ("<b> knn digits", 0, 3)
            run.end(("<b>", "knn", "digits"), "digits: row 3: \x1b[31mtruncated")
            run.end(("a", "knn", "cifar10"), "it failed after it had been measured")
        found = state(port)
        assert found["running"] == []
        assert [(one["cell"], one["error"]) for one in found["failed"]] == [
            ("<b> knn digits", r"digits: row 3: \x1b[31mtruncated"),
            ("a knn cifar10", "it failed after it had been measured"),
        ]
        # Measured since then: no failure any more.
        write(results, [record("a", "knn", "cifar10", 0.7, created_at="2099-01-01T00:00:00+00:00")])
        wait(lambda: state(port)["num_failed"] == 1)


def test_a_page_that_cannot_be_built_leaves_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    results = write(Path("results"), [record("a", "knn", "cifar10", 0.7)])

    def made(version: str) -> tuple[str, dict[tuple[str, str, str], str]]:
        if (results / "m001").exists():
            raise RequestError("no more")
        return "the page", {}

    live = LivePage(results, made)
    with live.kept_up():
        write(results, [record("a", "knn", "cifar10", 0.7), record("b", "knn", "cifar10", 0.7)])
        wait(lambda: live.state()["problem"] == "no more")
        assert live.page == b"the page"
    with pytest.raises(RequestError, match="no more"):
        LivePage(results, made)


def test_the_command(run_cli: Cli) -> None:
    write(Path("results"), [record("a", "knn", "cifar10", 0.7)])
    assert "leave out --out" in run_cli("leaderboard", "--serve", "--out", "x.html").error
    assert run_cli("leaderboard", "--serve", "--suite", "nonsense", "--port", 0).code == 2
    command = [sys.executable, "-m", "massl_bench", "leaderboard", "--serve", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", address)[1])
    assert "a" in models(ask(port, "/")[1])
    taken = run_cli("leaderboard", "--serve", "--port", port)
    assert taken.code == 2
    assert f"--port {port}: " in taken.error
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "")
    assert err.splitlines()[-1] == "ended"
    assert "Traceback" not in err
