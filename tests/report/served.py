"""The page of some results, served while a test lasts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from massl_bench.records.rows import Selection
from massl_bench.report.serving import LivePage, open_server, page_of
from massl_bench.specs.registry import Registry


@contextmanager
def served(results: Path) -> Iterator[int]:
    """The port under which the page of some results is served."""
    live = LivePage(results, page_of(results, Registry(), None, Selection()))
    with open_server(live, results, 0) as server, live.kept_up():
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
