"""The page of a leaderboard on this machine, anew as records arrive, with what is running and what failed.

The page is built beside the requests, which are answered with the last one that was finished: whoever asks, and
whatever is being written meanwhile, gets one whole table. Only this machine is answered, and only under its own name: a
page of somebody else's, whose name leads here (DNS rebinding), is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from massl_bench.core.errors import MasslBenchError, RequestError, one_line, unforeseen
from massl_bench.core.files import read_regular
from massl_bench.core.printable import printable
from massl_bench.core.wording import asked
from massl_bench.records.activity import FOLDER, Failure, Watched, watch
from massl_bench.records.outcomes import of_one_state
from massl_bench.records.rows import Selection, collect
from massl_bench.report.page import leaderboard_page
from massl_bench.specs.registry import Registry

HOST = "127.0.0.1"
RECORDS = "records/"
"""What stands before a record's path in an address."""
_SECONDS_BETWEEN_LOOKS = 1.0
_SHARE_OF_BUILDING = 0.25
"""At most this part of the time is spent on building pages: a table of many thousands takes seconds."""
_SHOWN_FAILURES = 100

Page = Callable[[str], tuple[str, dict[tuple[str, str, str], str]]]
"""Makes the page of a version; also says when each (model, task, dataset) in it was measured."""


@dataclass(frozen=True, kw_only=True)
class _Built:
    page: bytes = b""
    version: str = ""
    measured: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    seen: str = ""
    problem: str | None = None


def page_of(results_dir: Path, registry: Registry, suite: str | None, selection: Selection) -> Page:
    """Returns what makes the page of some results; the arguments are those of `collect`."""

    def make(version: str) -> tuple[str, dict[tuple[str, str, str], str]]:
        board = collect(results_dir, registry, suite, selection)
        measured = {(row.record.identity.model.name, *row.cell): row.record.created_at for row in board.rows}
        return leaderboard_page(board, registry, href=RECORDS, version=version), measured

    return lambda version: of_one_state(partial(make, version))


class LivePage:
    """The page as it is now.

    Args:
        results_dir: the records.
        make: builds the page.
    """

    def __init__(self, results_dir: Path, make: Page) -> None:
        self._results, self._make = results_dir, make
        self._stop = threading.Event()
        self._built = _Built()
        self._built = self._build()
        if self._built.problem is not None:
            raise RequestError(self._built.problem)

    @property
    def page(self) -> bytes:
        """The last page that was finished."""
        return self._built.page

    def state(self) -> dict[str, Any]:
        """Returns the version of the page, and what is running and what failed at this moment."""
        built = self._built
        found, unreadable = watch(self._results)
        failures = [one for each in found for one in _failures(each)]
        # What was measured since then did not fail in the end.
        failed = [one for one in failures if built.measured.get(_key(one), "") < one.at]
        return {
            "version": built.version,
            "problem": built.problem,
            "running": [_running(each) for each in found if each.state != "ended"],
            "failed": [_failed(one) for one in failed[:_SHOWN_FAILURES]],
            "num_failed": len(failed),
            "unreadable": [printable(name) for name in unreadable],
        }

    @contextmanager
    def kept_up(self) -> Iterator[None]:
        """Builds the page anew, in a thread of its own, whenever records changed."""
        thread = threading.Thread(target=self._keep_up, daemon=True, name="leaderboard")
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(timeout=5)

    def _keep_up(self) -> None:
        pause = _SECONDS_BETWEEN_LOOKS
        while not self._stop.wait(pause):
            start = time.monotonic()
            if self._seen() != self._built.seen:
                self._built = self._build()
            pause = max(_SECONDS_BETWEEN_LOOKS, (time.monotonic() - start) * (1 / _SHARE_OF_BUILDING - 1))

    def _build(self) -> _Built:
        # Looked at before it is read: what changes meanwhile is found at the next look.
        seen = self._seen()
        try:
            text, measured = self._make(seen)
        except MasslBenchError as error:
            return replace(self._built, seen=seen, problem=str(error))
        except Exception as error:  # the last page stays, with what went wrong above it
            return replace(self._built, seen=seen, problem=unforeseen(error))
        return _Built(page=text.encode(), version=seen, measured=measured, seen=seen)

    def _seen(self) -> str:
        """Returns what changes when a record does: names, sizes, times and inodes of the files."""
        digest = hashlib.sha256()
        for model in _entries(self._results):
            if model.name == FOLDER:
                continue
            for task in _entries(model.path):
                for file in _entries(task.path):
                    with suppress(OSError):
                        status = file.stat()
                        what = f"{file.path}\0{status.st_size} {status.st_mtime_ns} {status.st_ino}\n"
                        digest.update(what.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]


def _failures(found: Watched) -> list[Failure]:
    """Returns what failed in a run, and the cell that a run was at which ended without a word."""
    sweep = found.sweep
    if found.state != "ended" or sweep.current is None:
        return sweep.failed
    model, task, dataset = (*sweep.current, "", "", "")[:3]
    error = "the process ended before the cell did: was it killed?"
    return [*sweep.failed, Failure(model=model, task=task, dataset=dataset, error=error, at=sweep.updated_at)]


def _key(failure: Failure) -> tuple[str, str, str]:
    return failure.model, failure.task, failure.dataset


def _failed(failure: Failure) -> dict[str, str]:
    texts = {"cell": " ".join(_key(failure)), "error": failure.error, "at": failure.at}
    return {name: printable(text) for name, text in texts.items()}


def _running(found: Watched) -> dict[str, str | int]:
    sweep = found.sweep
    return {
        "what": printable(" ".join(sweep.current or ("between cells",))),
        "progress": printable(sweep.progress or ""),
        "done": sweep.done,
        "total": sweep.total,
        "where": printable(f"process {sweep.pid} on {sweep.host}"),
        "since": printable(sweep.started_at),
        "state": found.state,
    }


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return []


def open_server(live: LivePage, results_dir: Path, port: int) -> ThreadingHTTPServer:
    """Returns a server of the page on this machine alone, which is to be run and closed.

    Args:
        live: the page.
        results_dir: whose records are served beside it.
        port: 0 for any that is free.

    Raises:
        RequestError: The port cannot be had.
    """
    handler = type("Handler", (_Handler,), {"live": live, "results": results_dir.resolve()})
    try:
        server = ThreadingHTTPServer((HOST, port), handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise RequestError(f"{asked('port', port)}: {reason}; give another, or 0 for any that is free") from None
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD of the page, its state, and the records."""

    live: LivePage
    results: Path
    server_version = "massl-bench"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        """Answers."""
        port = cast(ThreadingHTTPServer, self.server).server_port
        if self.headers.get("Host", "").lower() not in (f"{HOST}:{port}", f"localhost:{port}"):
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"asked under a name that is not this machine's own\n")
            return
        path = urlsplit(self.path).path
        if path == "/":
            self._answer(HTTPStatus.OK, "text/html", self.live.page)
        elif path == "/state":
            self._answer(HTTPStatus.OK, "application/json", json.dumps(self.live.state()).encode())
        elif path == "/favicon.ico":  # browsers ask beside a record
            self._answer(HTTPStatus.NO_CONTENT, "image/x-icon", b"")
        elif (content := self._record(unquote(path, errors="surrogateescape").lstrip("/"))) is not None:
            self._answer(HTTPStatus.OK, "application/json", content)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"there is nothing here\n")

    do_HEAD = do_GET

    def _record(self, path: str) -> bytes | None:
        """Returns the content of a record below the results; None for any other file, wherever a link leads."""
        parts = path.removeprefix(RECORDS).split("/")
        if not path.startswith(RECORDS) or len(parts) != 3 or not parts[2].endswith(".json"):
            return None
        if any(part in ("", ".", "..", FOLDER) or "\0" in part or "\\" in part for part in parts):
            return None
        try:
            file = self.results.joinpath(*parts).resolve(strict=True)
            return read_regular(file) if file.is_relative_to(self.results) else None
        except (OSError, ValueError, RuntimeError):
            return None

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
        }
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            with suppress(OSError):  # the reader went away
                self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Says nothing: a page that looks every two seconds would fill a terminal."""
